"""A model that answers by rules: for the demo, for tests, for benchmarks. It needs no machine outside.

Options, all optional (unknown ones are refused):

    {"rules": [{"match": "refund|money back",            RE2, any case, searched in the last user message
                "text": "# Refunds\\n\\nYou said: {input}"}, the answer; {input} is that message
               {"match": ["hello", "hi there"],          or: any of these, any case
                "text": "Hello!", "reasoning": "A greeting.", "pace_tokens_per_s": 20, "first_token_ms": 900,
                "fault": {...}}],
     "default": "...",                                   when no rule matches; without it: {input}
     "pace_tokens_per_s": 50, "first_token_ms": 300, "pour": false, "repeat": 1, "seed": 0,
     "fault": {"kind": "cut",                            a kind of ProviderError
               "after_tokens": 3, "wait_s": 0, "retry_after": null, "times": null, "rate": 1.0}}

`pour`: no pauses at all. `repeat`: the text so many times. A fault comes after so many tokens (more than
there are: none) and a wait, the first `times` calls (null: always), with probability `rate`. The same seed
and request give the same pauses and the same faults.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import re2

from providers.base import Chunk, ErrorKind, LLMRequest, ProviderError, SetupError, Usage
from providers.base import noop as _

POUR_TOKENS = 256  # in one chunk; between two of them others may run
MAX_PATTERN_BYTES = 1024 * 1024
RETRYABLE = ("rate_limited", "unavailable", "timeout", "cut")

# A token is a short word or a piece of a long one, with the white space before it; scripts without blanks go
# by one or two characters.
_WIDE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(rf"\s*(?:[{_WIDE}]{{1,2}}|[^\s{_WIDE}]{{1,12}})|\s+")

_RE2 = re2.Options()
_RE2.case_sensitive = False
_RE2.log_errors = False
_RE2.max_mem = MAX_PATTERN_BYTES


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: ErrorKind
    after_tokens: int = 0
    wait_s: float = 0
    retry_after: float | None = None
    times: int | None = None
    rate: float = 1.0


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    match: str | tuple[str, ...]
    text: str
    reasoning: str = ""
    pace_tokens_per_s: float | None = None
    first_token_ms: float | None = None
    fault: Fault | None = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: tuple[Rule, ...] = ()
    default: str = "{input}"
    pace_tokens_per_s: float = 50
    first_token_ms: float = 300
    pour: bool = False
    repeat: int = 1
    seed: int = 0
    fault: Fault | None = None


def tokens_of(text: str) -> list[str]:
    """`text` in tokens; joined they are `text` again."""
    return _TOKEN.findall(text)


class Scripted:
    """Raises SetupError where `options` are not those of the module's docstring."""

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        try:
            self._options = msgspec.convert(options or {}, Options)
        except msgspec.ValidationError as error:
            raise SetupError(_("The script has a fault: {reason}."), reason=error) from None
        self._matchers = [_matcher(rule.match) for rule in self._options.rules]
        self._faults: dict[Fault, int] = {}  # how often each was met

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        options = self._options
        said = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
        rule = self._rule_for(said)
        chance = random.Random(f"{options.seed}:{request.model}:{said}")
        text = (rule.text if rule else options.default).replace("{input}", said) * options.repeat
        reasoning = tokens_of(rule.reasoning) if rule else []
        tokens = tokens_of(text)
        is_cut_short = request.max_tokens is not None and request.max_tokens < len(tokens)
        if is_cut_short:
            tokens = tokens[: request.max_tokens]
        if request.begun and (whole := "".join(tokens)).startswith(request.begun):
            reasoning, tokens = [], tokens_of(whole.removeprefix(request.begun))
        fault = self._fault_for(rule, chance)
        if fault and fault.after_tokens <= len(reasoning) + len(tokens):
            stop_at = fault.after_tokens
        else:
            fault, stop_at = None, len(reasoning) + len(tokens)

        thoughts = len(reasoning)
        async with aclosing(self._pace(rule, stop_at, chance)) as paced:
            async for first, last in paced:
                yield Chunk(
                    reasoning="".join(reasoning[first:last]),
                    text="".join(tokens[max(first - thoughts, 0) : max(last - thoughts, 0)]),
                    tokens=last - first,
                )
        if fault:
            await asyncio.sleep(fault.wait_s)
            raise ProviderError(
                fault.kind,
                _("The script has it so."),
                is_retryable=fault.kind in RETRYABLE,
                retry_after=fault.retry_after,
            )
        usage = Usage(
            input_tokens=sum(len(tokens_of(message.text)) for message in request.messages),
            output_tokens=len(reasoning) + len(tokens),
        )
        yield Chunk(usage=usage, finish="length" if is_cut_short else "stop")

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _pace(self, rule: Rule | None, count: int, chance: random.Random) -> AsyncIterator[tuple[int, int]]:
        """Ranges of tokens, each when it is due by a schedule; what is overdue comes together."""
        options = self._options
        if options.pour:
            for first in range(0, count, POUR_TOKENS):
                await asyncio.sleep(0)
                yield first, min(first + POUR_TOKENS, count)
            return
        pace = _of(rule, "pace_tokens_per_s", options.pace_tokens_per_s)
        clock = asyncio.get_running_loop().time
        due = clock() + _of(rule, "first_token_ms", options.first_token_ms) / 1000
        sent = 0
        while sent < count:
            await asyncio.sleep(max(0, due - clock()))
            first = sent
            while sent < count and due <= clock():
                sent += 1
                due += chance.uniform(0.5, 1.5) / pace if pace > 0 else 0
            if sent > first:
                yield first, sent

    def _rule_for(self, said: str) -> Rule | None:
        for rule, does_match in zip(self._options.rules, self._matchers, strict=True):
            if does_match(said):
                return rule
        return None

    def _fault_for(self, rule: Rule | None, chance: random.Random) -> Fault | None:
        fault = _of(rule, "fault", self._options.fault)
        if fault is None or chance.random() >= fault.rate:
            return None
        met = self._faults.get(fault, 0)
        self._faults[fault] = met + 1
        return fault if fault.times is None or met < fault.times else None


def _of(rule: Rule | None, name: str, default: Any) -> Any:
    own = getattr(rule, name, None)
    return default if own is None else own


def _matcher(match: str | tuple[str, ...]) -> Callable[[str], bool]:
    if isinstance(match, str):
        try:
            pattern = re2.compile(match, _RE2)
        except re2.error:
            raise SetupError(
                _("The script has a fault: {pattern} is not a pattern of RE2."), pattern=repr(match)
            ) from None
        return lambda said: pattern.search(said) is not None
    words = [word.casefold() for word in match]
    return lambda said: any(word in said.casefold() for word in words)
