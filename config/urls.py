"""Addresses. Sockets are routed in `config/asgi.py`."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path, re_path
from django.views.decorators.cache import cache_control
from django.views.i18n import JavaScriptCatalog

from accounts import api as accounts_api
from accounts import spend_api
from accounts.passwords import LoginForm
from chat import api as chat_api
from chat import sessions_api, views
from chat.files import api as files_api
from config import errors, openapi, scrape
from flows import api as flows_api

api = [
    path("auth/token/", accounts_api.TokenView.as_view()),
    path("auth/refresh/", accounts_api.RefreshView.as_view()),
    path("auth/revoke/", accounts_api.RevokeView.as_view()),
    path("auth/ticket/", accounts_api.TicketView.as_view()),
    path("keys/", accounts_api.KeysView.as_view()),
    path("keys/<str:ref>/", accounts_api.KeyView.as_view()),
    path("me/", accounts_api.MeView.as_view()),
    path("me/usage/", spend_api.UsageView.as_view()),
    path("budgets/", spend_api.BudgetsView.as_view()),
    path("flows/", flows_api.FlowsView.as_view()),
    path("flows/import/", flows_api.ImportView.as_view()),
    path("flows/<str:ref>/", flows_api.FlowView.as_view()),
    path("flows/<str:ref>/check/", flows_api.CheckView.as_view()),
    path("flows/<str:ref>/build/", flows_api.BuildView.as_view()),
    path("flows/<str:ref>/build/events/", flows_api.BuildEventsView.as_view()),
    path("flows/<str:ref>/export/", flows_api.FlowExportView.as_view()),
    path("flows/<str:ref>/publish/", flows_api.PublishView.as_view()),
    path("flows/<str:ref>/offline/", flows_api.OfflineView.as_view()),
    path("flows/<str:ref>/versions/", flows_api.VersionsView.as_view()),
    path("flows/<str:ref>/versions/<str:number>/", flows_api.VersionView.as_view()),
    path("flows/<str:ref>/versions/<str:number>/restore/", flows_api.RestoreView.as_view()),
    path("flows/<str:ref>/versions/<str:number>/diff/", flows_api.DiffView.as_view()),
    path("nodes/", flows_api.NodesView.as_view()),
    path("providers/", flows_api.ProvidersView.as_view()),
    path("providers/<str:ref>/", flows_api.ProviderView.as_view()),
    path("chats/", chat_api.ChatsView.as_view()),
    path("chats/<str:ref>/", chat_api.ChatView.as_view()),
    path("chats/<str:ref>/messages/", chat_api.MessagesView.as_view()),
    path("chats/<str:ref>/events/", chat_api.EventsView.as_view()),
    path("chats/<str:ref>/restore/", chat_api.RestoreView.as_view()),
    path("chats/<str:ref>/export/", chat_api.ExportView.as_view()),
    path("messages/<str:ref>/feedback/", chat_api.FeedbackView.as_view()),
    path("chats/<str:ref>/turns/", chat_api.TurnsView.as_view()),
    path("turns/<str:ref>/", chat_api.TurnView.as_view(), name="turn"),
    path("turns/<str:ref>/stop/", chat_api.StopView.as_view()),
    path("questions/<str:ref>/answer/", chat_api.AnswerView.as_view()),
    path("files/", files_api.FilesView.as_view()),
    path("files/<str:ref>/", files_api.FileView.as_view()),
    path("sessions/", sessions_api.SessionsView.as_view()),
    path("sessions/totals/", sessions_api.TotalsView.as_view()),
    path("sessions/<str:ref>/", sessions_api.SessionView.as_view()),
    path("sessions/<str:ref>/close/", sessions_api.CloseView.as_view()),
    path("workers/", sessions_api.WorkersView.as_view()),
    path("schema/", openapi.SchemaView.as_view(), name="schema"),
    path("docs/", openapi.docs, name="docs"),
    re_path(r"", errors.api_not_found),
]

urlpatterns = [
    path("", views.flow_list, name="flows"),
    path("f/<slug:slug>/", views.new_chat, name="new_chat"),
    path("c/<uuid:chat>/", views.chat_page, name="chat"),
    path("edit/<str:ref>/", views.edit_page, name="edit"),
    path(
        "login/",
        LoginView.as_view(template_name="login.html", authentication_form=LoginForm, redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", LogoutView.as_view(next_page="login"), name="logout"),
    path("jsi18n/", cache_control(max_age=3600)(JavaScriptCatalog.as_view()), name="jsi18n"),
    path("healthz", views.healthz),
    path("readyz", views.readyz),
    path("metrics", scrape.metrics),
    path("api/", include(api)),
    path("admin/", admin.site.urls),
]

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error
