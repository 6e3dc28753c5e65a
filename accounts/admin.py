"""Users for operators; and the form of all admin pages that only show."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import store, tokens
from accounts.models import User
from accounts.passwords import AdminLoginForm

admin.site.login_form = AdminLoginForm


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that are written by transactions of their own room alone."""

    show_full_result_count = False
    actions_selection_counter = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(User)
class HeadraceUserAdmin(UserAdmin):
    list_display = ("username", "first_name", "last_name", "is_staff", "is_active", "last_login")
    fieldsets = (*UserAdmin.fieldsets, (_("Language"), {"fields": ("locale",)}))
    actions = ("end_logins",)

    @admin.action(description=_("End every log-in"), permissions=("change",))
    def end_logins(self, request: HttpRequest, users: QuerySet) -> None:
        ended = [login for user in users for login in store.end_logins(user_id=user.pk)]
        tokens.forget(ended)
        count = len(ended)
        self.message_user(request, ngettext("%d log-in was ended.", "%d log-ins were ended.", count) % count)
