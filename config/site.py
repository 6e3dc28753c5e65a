"""The site of the operators: Django's admin with our first page, the one log-in, and those who only look."""

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _

MAY_LOOK = "streams.view_streamsession"


class OperatorsConfig(AdminConfig):
    default_site = "config.site.OperatorSite"


class OperatorSite(AdminSite):
    site_title = "Headrace"
    site_header = "Headrace"
    index_title = _("Overview")
    index_template = "admin/overview.html"
    enable_nav_sidebar = False  # lists need the width; their names stand in the head of each page

    def has_permission(self, request: HttpRequest) -> bool:
        """Staff, and viewers: who may look at stream sessions. What each may do there is by Django's permissions."""
        user = request.user
        return user.is_active and (user.is_staff or user.has_perm(MAY_LOOK))

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The pages' own log-in; who is signed in and may not be here is told so. A form that is sent here is taken."""
        if request.method == "POST":
            return super().login(request, extra_context)
        from django.contrib.auth.views import redirect_to_login  # needs the apps, which this module is one of

        target = request.GET.get("next") or reverse("admin:index", current_app=self.name)
        if not request.user.is_authenticated:
            return redirect_to_login(target, settings.LOGIN_URL)
        if not self.has_permission(request):
            raise PermissionDenied
        return HttpResponseRedirect(reverse("admin:index", current_app=self.name))

    def index(self, request: HttpRequest, extra_context: Any = None) -> TemplateResponse:
        return super().index(request, {**self._figures(request), **(extra_context or {})})

    def get_urls(self) -> list[URLPattern]:
        return [path("figures/", self.admin_view(self.figures), name="figures"), *super().get_urls()]

    def figures(self, request: HttpRequest) -> HttpResponse:
        """The figures alone, for a page that is open."""
        return render(request, "admin/figures.html", self._figures(request))

    def _figures(self, request: HttpRequest) -> dict[str, Any]:
        from chat.admin import figures  # rows are there once the apps are

        if not request.user.has_perm(MAY_LOOK):
            return {}
        poll_s = settings.HEADRACE.admin_poll_s
        return {"figures": figures.figures(), "causes": figures.causes(), "poll_s": poll_s}
