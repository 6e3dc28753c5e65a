"""Statements that the ORM compiled once and that are run many times: the few on the way of every message.

Compiling is what the ORM costs there: one row by key takes 380 us by a queryset, 60 by its SQL and the same model
(docs/decisions/006-prepared-statements.md). Rows come and go as models, converted by Django's own fields.
Uses Django's compiler by its inner names: held by tests against the pinned version.
"""

import uuid
from collections.abc import Callable
from datetime import date
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.sqlite3.base import SQLiteCursorWrapper
from django.db.models import (
    AutoField,
    BooleanField,
    CharField,
    Field,
    IntegerField,
    Model,
    QuerySet,
    TextField,
)
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
        sql, self.params = self.compiler.as_sql(with_col_aliases=False)
        self.statement = _Statement(sql)
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
        return [self._model_of(list(row), connection) for row in self.statement.run(connection, params)]

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


def insert(instance: Model, *, unless_there: bool = False) -> None:
    """A new row, as `save(force_insert=True)` makes it; no signals. A key that the database gives is not read back.

    `unless_there`: a row of the same key stands as it is, and nothing is raised.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    key = (type(instance), unless_there)
    known = _INSERTS.get(key)
    if known is None:
        fields = [field for field in instance._meta.local_concrete_fields if not isinstance(field, AutoField)]
        known = _INSERTS[key] = _columns(fields), _insert_sql(instance, fields, connection, unless_there)
    columns, statement = known
    statement.run(connection, _values(instance, columns, True, connection))
    instance._state.adding, instance._state.db = False, connection.alias


def update(instance: Model, *names: str) -> None:
    """These fields of an existing row, by its key; no signals."""
    connection = connections[DEFAULT_DB_ALIAS]
    key = (type(instance), names)
    known = _UPDATES.get(key)
    if known is None:
        fields = [instance._meta.get_field(name) for name in names]
        known = _UPDATES[key] = _columns(fields), _update_sql(instance, fields, connection)
    columns, statement = known
    values = _values(instance, columns, False, connection)
    statement.run(connection, [*values, _native(instance.pk, connection)])


class _Statement:
    """SQL that was compiled once, in the ORM's style and in SQLite's own.

    SQLite's driver is asked directly: a cursor of Django's, which puts every statement into that style anew, costs as
    much as the statement. Where somebody counts or wraps queries it goes the long way.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self._native = SQLiteCursorWrapper.convert_query(None, sql)

    def run(self, connection: BaseDatabaseWrapper, params: list[Any]) -> list[tuple]:
        if connection.vendor != "sqlite" or connection.execute_wrappers or connection.queries_logged:
            with connection.cursor() as cursor:
                cursor.execute(self.sql, params)
                return cursor.fetchall() if cursor.description else []
        connection.ensure_connection()
        connection.validate_no_broken_transaction()
        with connection.wrap_database_errors:
            return connection.connection.execute(self._native, params).fetchall()


class _Column(NamedTuple):
    """A field, its attribute, and the kinds of values that the driver takes as they are."""

    field: Field
    name: str
    plain: frozenset[type]
    is_set_by_save: bool  # a time that the row itself keeps


_PLAIN: tuple[tuple[tuple[type[Field], ...], set[type]], ...] = (
    ((CharField, TextField), {str}),
    ((IntegerField, AutoField, BooleanField), {int, bool}),
)
_INSERTS: dict[tuple[type[Model], bool], tuple[list[_Column], _Statement]] = {}
_UPDATES: dict[tuple[type[Model], tuple[str, ...]], tuple[list[_Column], _Statement]] = {}


def _columns(fields: list[Any]) -> list[_Column]:
    return [_column(field) for field in fields]


def _column(field: Any) -> _Column:
    target = field.target_field if field.is_relation else field
    kinds = (plain for classes, plain in _PLAIN if isinstance(target, classes))
    is_set_by_save = type(field).pre_save is not Field.pre_save
    return _Column(field, field.attname, frozenset({type(None), *next(kinds, ())}), is_set_by_save)


def _values(instance: Model, columns: list[_Column], is_new: bool, connection: BaseDatabaseWrapper) -> list[Any]:
    values = []
    for field, name, plain, is_set_by_save in columns:
        value = field.pre_save(instance, is_new) if is_set_by_save else getattr(instance, name)
        if type(value) not in plain:
            value = field.get_db_prep_save(value, connection)
        values.append(value)
    return values


def _insert_sql(instance: Model, fields: Any, connection: BaseDatabaseWrapper, unless_there: bool) -> _Statement:
    quote = connection.ops.quote_name
    columns = ", ".join(quote(field.column) for field in fields)
    marks = ", ".join(["%s"] * len(fields))
    conflict = f" ON CONFLICT ({quote(instance._meta.pk.column)}) DO NOTHING" if unless_there else ""
    return _Statement(f"INSERT INTO {quote(instance._meta.db_table)} ({columns}) VALUES ({marks}){conflict}")


def _update_sql(instance: Model, fields: Any, connection: BaseDatabaseWrapper) -> _Statement:
    quote = connection.ops.quote_name
    sets = ", ".join(f"{quote(field.column)} = %s" for field in fields)
    key = quote(instance._meta.pk.column)
    return _Statement(f"UPDATE {quote(instance._meta.db_table)} SET {sets} WHERE {key} = %s")


def _native(value: Any, connection: BaseDatabaseWrapper) -> Any:
    """A UUID or a date as this database takes it."""
    if isinstance(value, uuid.UUID) and not connection.features.has_native_uuid_field:
        return value.hex
    if isinstance(value, date):
        return connection.ops.adapt_datefield_value(value)
    return value
