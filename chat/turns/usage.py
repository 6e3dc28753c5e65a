"""What a turn's models used, summed."""

import msgspec

from chat import protocol
from providers.base import Usage as ProviderUsage


def sane(usage: ProviderUsage, most: int) -> ProviderUsage:
    """What a vendor counted, each within 0 and `most`: it goes into sums, prices and rows."""
    return ProviderUsage(**{name: min(max(count, 0), most) for name, count in msgspec.structs.asdict(usage).items()})


def added(total: protocol.Usage | None, usage: ProviderUsage, model: str, cost_micros: int) -> protocol.Usage:
    total = total or protocol.Usage()
    return protocol.Usage(
        input_tokens=total.input_tokens + usage.input_tokens,
        output_tokens=total.output_tokens + usage.output_tokens,
        cached_tokens=total.cached_tokens + usage.cached_tokens,
        cost_micros=total.cost_micros + cost_micros,
        model=model,
    )
