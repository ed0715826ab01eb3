"""Stable fictitious addresses in the manner of each source: hosts under `.test`, no port, several hosts a source."""

from __future__ import annotations

import numpy as np

_HEX = "0123456789abcdef"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE62 = _BASE36 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

EXTENSION = {"jpeg": "jpg", "png_rgba": "png", "png_palette": "png", "webp": "webp", "gif": "gif"}

_LAION_HOSTS = (
    "cdn.iconshelf.test", "images.printables.test", "static.clipartbay.test", "blog.kidsroom.test",
    "img.stickerhub.test", "www.craftcorner.test",
)  # fmt: skip
_CC12M_HOSTS = (
    "media.stockart.test", "i.pinboards.test", "static.recipebook.test", "photos.travelblog.test",
    "cdn.schoolposters.test",
)  # fmt: skip


def token(rng: np.random.Generator, length: int, alphabet: str = _BASE62) -> str:
    """`length` random characters of `alphabet`."""
    return "".join(alphabet[i] for i in rng.integers(len(alphabet), size=length))


def make_url(source: str, slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    """The address of a picture of `slug` and the source's own identifier for it ("" where its dump has none)."""
    return _MAKERS[source](slug, extension, rng)


def unresolvable_url(slug: str, extension: str, rng: np.random.Generator) -> str:
    """An address whose host can have none: `.invalid` is reserved for that (RFC 2606)."""
    return f"http://images.closed-{token(rng, 4, _BASE36)}.invalid/{slug}.{extension}"


def unusable_url(slug: str, extension: str, rng: np.random.Generator) -> str:
    """Something in the URL field that no HTTP client should request."""
    forms = (
        f"ftp://files.oldserver.test/{slug}.{extension}",
        f"http://user:secret@private.oldserver.test/{slug}.{extension}",
        "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        f"//images.oldserver.test/{slug}.{extension}",
    )
    # The token keeps two unusable addresses from being the same record.
    return f"{forms[rng.integers(len(forms))]}#{token(rng, 5)}"


def _yfcc(slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    photo = str(rng.integers(2_000_000_000, 9_999_999_999))
    farm = rng.integers(1, 7)
    host = f"farm{farm}.staticflickr.test" if rng.random() < 0.7 else "live.staticflickr.test"
    return f"http://{host}/{rng.integers(1000, 9000)}/{photo}_{token(rng, 10, _HEX)}.{extension}", photo


def _laion(slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    host = _LAION_HOSTS[rng.integers(len(_LAION_HOSTS))]
    number = rng.integers(100, 99_999)
    paths = (
        f"wp-content/uploads/{rng.integers(2014, 2021)}/{rng.integers(1, 13):02d}/{slug}-{number}.{extension}",
        f"img/{token(rng, 8, _HEX)}/{slug}.{extension}?w={rng.integers(2, 12) * 100}&v={number}",
        f"products/{slug.replace('-', '%20')}%20({number}).{extension}",
        f"cache/{number}/{slug}_{token(rng, 6)}.{extension}",
    )
    return f"http://{host}/{paths[rng.integers(len(paths))]}", str(rng.integers(10**11, 4 * 10**12))


def _cc12m(slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    host = _CC12M_HOSTS[rng.integers(len(_CC12M_HOSTS))]
    return f"http://{host}/{token(rng, 2, _HEX)}/{token(rng, 2, _HEX)}/{slug}-{token(rng, 9)}.{extension}", ""


def _wit(slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    name = f"{slug.replace('-', '_').capitalize()},_{rng.integers(1, 9999)}.{extension}"
    folder = token(rng, 2, _HEX)
    path = f"wikipedia/commons/{folder[0]}/{folder}/{name}"
    if rng.random() < 0.25:
        size = rng.integers(2, 12) * 100
        path = f"wikipedia/commons/thumb/{folder[0]}/{folder}/{name}/{size}px-{name}"
    host = "upload.wikimedia.test" if rng.random() < 0.8 else "thumb.wikimedia.test"
    return f"http://{host}/{path}", ""


def _redcaps(slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.55:
        url = f"http://i.redd.test/{token(rng, 13, _BASE36)}.{extension}"
    else:
        url = f"http://i.imgur.test/{token(rng, 7)}.{extension}"
    return url, token(rng, 6, _BASE36)


def _shutterstock(slug: str, extension: str, rng: np.random.Generator) -> tuple[str, str]:
    kind = ("image-vector", "image-illustration", "image-photo")[rng.integers(3)]
    host = ("image.shutterstock.test", "thumb7.shutterstock.test", "thumb9.shutterstock.test")[rng.integers(3)]
    number = rng.integers(10_000_000, 2_000_000_000)
    return f"http://{host}/{kind}/{slug}-{rng.choice([260, 450, 600])}w-{number}.{extension}", ""


_MAKERS = {
    "yfcc": _yfcc,
    "laion": _laion,
    "cc12m": _cc12m,
    "wit": _wit,
    "redcaps": _redcaps,
    "shutterstock": _shutterstock,
}
