"""Statements that the ORM compiled once and that are run many times: the few on the way of every message.

Compiling is what the ORM costs there: one row by key takes 380 us by a queryset, 60 by its SQL and the same model
(docs/decisions/006-prepared-statements.md). Rows come and go as models, converted by Django's own fields.
Uses Django's compiler by its inner names: held by tests against the pinned version.
"""

import uuid
from collections.abc import Callable
from datetime import date
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import AutoField, Model, QuerySet
from django.db.models.query import get_related_populators

M = TypeVar("M", bound=Model)


class Select(Generic[M]):
    """A queryset and the kinds of its arguments: `Select(lambda id: Chat.objects.filter(id=id), uuid.UUID)`."""

    def __init__(self, make: Callable[..., QuerySet[M]], *kinds: type) -> None:
        self._make = make
        self._kinds = kinds
        self._compiled: dict[str, _Compiled] = {}

    def all(self, *args: Any) -> list[M]:
        connection = connections[DEFAULT_DB_ALIAS]
        compiled = self._compiled.get(connection.vendor)
        if compiled is None:
            compiled = self._compiled[connection.vendor] = _Compiled(self._make, self._kinds, connection)
        return compiled.run(connection, args)

    def one(self, *args: Any) -> M | None:
        rows = self.all(*args)
        return rows[0] if rows else None


class _Compiled:
    """The SQL, where the arguments stand in it, and how its rows become models."""

    def __init__(self, make: Callable[..., QuerySet], kinds: tuple[type, ...], connection: BaseDatabaseWrapper) -> None:
        marks = [_MARKS[kind](i) for i, kind in enumerate(kinds)]
        query = make(*marks).query
        self.compiler = query.get_compiler(connection=connection)
        self.sql, self.params = self.compiler.as_sql(with_col_aliases=False)
        self.places = [(list(self.params).index(_native(mark, connection)), i) for i, mark in enumerate(marks)]
        info = self.compiler.klass_info
        start, end = info["select_fields"][0], info["select_fields"][-1] + 1
        self.model, self.slice = info["model"], slice(start, end)
        self.names = [field[0].target.attname for field in self.compiler.select[start:end]]
        self.converters = list(self.compiler.get_converters([field[0] for field in self.compiler.select]).items())
        self.related = get_related_populators(info, self.compiler.select, connection.alias)

    def run(self, connection: BaseDatabaseWrapper, args: tuple[Any, ...]) -> list[Any]:
        params = list(self.params)
        for place, i in self.places:
            params[place] = _native(args[i], connection)
        with connection.cursor() as cursor:
            cursor.execute(self.sql, params)
            rows = cursor.fetchall()
        return [self._model_of(list(row), connection) for row in rows]

    def _model_of(self, row: list[Any], connection: BaseDatabaseWrapper) -> Any:
        for place, (converters, expression) in self.converters:
            value = row[place]
            for converter in converters:
                value = converter(value, expression, connection)
            row[place] = value
        instance = self.model.from_db(connection.alias, self.names, row[self.slice])
        for populator in self.related:
            populator.populate(row, instance)
        return instance


_MARKS: dict[type, Callable[[int], Any]] = {
    uuid.UUID: lambda i: uuid.UUID(int=2**100 + i),
    int: lambda i: 2_000_000_011 + i,
    str: lambda i: f"argument {i}",
    date: lambda i: date.fromordinal(1 + i),
}


def insert(instance: Model) -> None:
    """A new row, as `save(force_insert=True)` makes it; no signals. A key that the database gives is not read back."""
    connection = connections[DEFAULT_DB_ALIAS]
    known = _INSERTS.get(type(instance))
    if known is None:
        fields = [field for field in instance._meta.local_concrete_fields if not isinstance(field, AutoField)]
        known = _INSERTS[type(instance)] = fields, _insert_sql(instance, fields, connection)
    fields, sql = known
    values = [field.get_db_prep_save(field.pre_save(instance, True), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
    instance._state.adding, instance._state.db = False, connection.alias


def update(instance: Model, *names: str) -> None:
    """These fields of an existing row, by its key; no signals."""
    connection = connections[DEFAULT_DB_ALIAS]
    key = (type(instance), names)
    known = _UPDATES.get(key)
    if known is None:
        fields = [instance._meta.get_field(name) for name in names]
        known = _UPDATES[key] = fields, _update_sql(instance, fields, connection)
    fields, sql = known
    values = [field.get_db_prep_save(field.pre_save(instance, False), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(sql, [*values, _native(instance.pk, connection)])


_INSERTS: dict[type[Model], tuple[list[Any], str]] = {}
_UPDATES: dict[tuple[type[Model], tuple[str, ...]], tuple[list[Any], str]] = {}


def _insert_sql(instance: Model, fields: Any, connection: BaseDatabaseWrapper) -> str:
    quote = connection.ops.quote_name
    columns = ", ".join(quote(field.column) for field in fields)
    return f"INSERT INTO {quote(instance._meta.db_table)} ({columns}) VALUES ({', '.join(['%s'] * len(fields))})"


def _update_sql(instance: Model, fields: Any, connection: BaseDatabaseWrapper) -> str:
    quote = connection.ops.quote_name
    sets = ", ".join(f"{quote(field.column)} = %s" for field in fields)
    key = quote(instance._meta.pk.column)
    return f"UPDATE {quote(instance._meta.db_table)} SET {sets} WHERE {key} = %s"


def _native(value: Any, connection: BaseDatabaseWrapper) -> Any:
    """A UUID or a date as this database takes it."""
    if isinstance(value, uuid.UUID) and not connection.features.has_native_uuid_field:
        return value.hex
    if isinstance(value, date):
        return connection.ops.adapt_datefield_value(value)
    return value
