from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class FlowsConfig(AppConfig):
    name = "flows"
    verbose_name = _("Flows")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Find the kinds of nodes and the handlers of all installed apps, the flow's own first."""
        import flows.engine  # noqa: F401

        autodiscover_modules("nodes", "handlers")
