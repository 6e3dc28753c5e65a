"""Users and API keys for operators."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import lists, store, tokens
from accounts.models import ApiKey, User
from accounts.passwords import AdminLoginForm

admin.site.login_form = AdminLoginForm


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


@admin.register(ApiKey)
class ApiKeyAdmin(lists.ReadOnlyAdmin):
    """Looked at, and chosen for a budget; its owner makes it and takes it back."""

    keyset = "created"
    list_display = ("__str__", "user", "scope_names", "created", "is_good")
    list_select_related = ("user", "login")
    search_fields = ("name", "hint", "user__username")
    sortable_by = ("created",)
    ordering = ("-created", "-id")
    fields = ("name", "hint", "user", "scope_names", "created", "is_good")
    readonly_fields = ("scope_names", "is_good")

    @admin.display(description=_("scopes"))
    def scope_names(self, row: ApiKey) -> str:
        return ", ".join(row.scopes)

    @admin.display(description=_("good"), boolean=True)
    def is_good(self, row: ApiKey) -> bool:
        return row.login.ended_at is None
