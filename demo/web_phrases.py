"""Wording of the demo's captions: one list of templates a source, in the manner of that source.

Slots: `$name` the joined names, `$Name` the same with a capital, `$Title` in title case, `$a_name` with an article
when there is one name, `$kw` and `$kw2` keywords, `$n` a number, `$year` and `$camera` for photographs.
"""

from __future__ import annotations

PHRASES: dict[str, tuple[str, ...]] = {
    "laion": (
        "$Title icon - free download",
        "$Title Clipart | Free $kw Images",
        "$name.png",
        "$Name royalty free vector image",
        "Cartoon $name isolated on white",
        "$Title Sticker - $Kw Collection",
        "Buy $name magnet - best price online",
        "$Title T-Shirt for Men and Women",
        "$kw $kw2 $name flat design illustration",
        "$Name symbol, color, vector - $n downloads",
        "How to draw $a_name step by step for kids",
        "Image result for $name",
        "$Title PNG Transparent Background",
        "Printable $name coloring page #$n",
        "$Title Emoji Cookie Cutter",
        "free $name graphic for your $kw blog",
    ),
    "cc12m": (
        "illustration of $a_name on a plain background",
        "$a_name drawn in bold outlines",
        "<PERSON> shows how to draw $a_name",
        "vector icon of $name in a $kw theme",
        "poster with $a_name for a school project about $kw",
        "$Name is often used as a symbol of $kw .",
        "drawing of $a_name by <PERSON> , from a series of icons",
        "a simple picture of $name with a dark outline and flat colors",
        "graphic showing $name , part of a set on $kw and $kw2",
        "$a_name from the new icon collection presented by <PERSON>",
        "colorful picture of $name for children",
        "this is how $name looks in an outlined style",
        "sign with $a_name seen from the front",
    ),
    "wit": (
        "$A_name, in a modern pictogram",
        "Depiction of $name in a flat style",
        "$Name (detail), used as a symbol for $kw",
        "An icon of $a_name",
        "$Name as shown on a mobile device",
        "Pictogram representing $name, $year",
        "$Name, one of the symbols associated with $kw",
        "Example of $a_name in a character set",
        "The sign for $name",
        "Modern drawing of $a_name",
        "$Name in the version of $year",
        "Graphical symbol of $name as used in articles on $kw",
        "Colour rendering of $name",
    ),
    "redcaps": (
        "my new $name sticker",
        "i made this little $name out of clay",
        "found $a_name while cleaning my desk",
        "just finished my 3d render of $a_name",
        "this $name makes me happy",
        "$name, my first try at $kw",
        "a glossy $name i modelled last night",
        "got $a_name for my birthday",
        "look at this $name",
        "$name i printed for my daughter",
        "finally painted $a_name, any tips?",
        "saw $a_name today and thought of you guys",
        "weekend project: $name",
    ),
    "shutterstock": (
        "$Name icon. $Kw and $kw2 concept. Vector illustration",
        "Cute cartoon $name isolated on white background",
        "Flat style $name symbol for web design and mobile app",
        "$Name vector icon, simple sign for $kw",
        "Vector illustration of $a_name, $kw concept",
        "$Name, colorful emblem, logo template, graphic design element",
        "$A_name in cartoon style. Raster copy",
        "Collection of $kw signs with $name",
        "$Name emoticon vector. Modern flat $kw pictogram",
        "Single $name icon for infographic, print and presentation",
        "Bright $name cartoon clip art, stock vector",
        "$Name line and fill icon, $kw, $kw2, EPS 10",
        "$Name sign. Graphic resource for poster and banner",
    ),
}

FIRST_PERSON: tuple[str, ...] = (
    "and i love it",
    "what do you think?",
    "it took me two days",
    "be gentle, first post",
    "no idea where it came from",
    "my cat approves",
    "not perfect but i am proud",
)

YFCC_TITLES: tuple[str, ...] = (
    "$Name",
    "$Name ($year)",
    "My $name",
    "$Name, close up",
    "$A_name",
    "$Name no. $n",
    "Day $n: $name",
    "the $name",
)
YFCC_PLAIN: tuple[str, ...] = ("IMG_0$n", "DSC_0$n", "P10$n", "100_$n", "Untitled", "$year $n", "Picture $n")
YFCC_WITH_NAME: tuple[str, ...] = (
    "A picture of $name that I took with my $camera.",
    "Here is <b>$name</b>, seen on a day out.",
    'This is $a_name.\n\n<a href="http://www.flickr.com/photos/someone/sets/72157$n/">More like this</a>',
    "$Name & friends. It's my favourite of the $kw set.",
    '<a href="http://www.flickr.com/search/?q=$kw">$name</a>, one of $n pictures',
    "We found $name at the $kw market. <i>Taken with a $camera.</i>",
    "$Name for the $kw group, http://www.example.org/groups/$n",
    "I think it's $a_name; 100% sure it isn't $kw2.",
)
YFCC_WITHOUT_NAME: tuple[str, ...] = (
    "",
    "",
    "$camera, 50mm, f/1.8, 1/125 s",
    '<a href="http://www.flickr.com/photos/someone/sets/72157$n/">See the whole set</a>',
    "Taken with my $camera",
    '<a href="http://bighugelabs.com/onblack.php?id=$n">View On Black</a>',
    "Please do not use without my permission.",
)

FOREIGN: dict[str, tuple[str, ...]] = {
    "de": ("Ein Bild von: $name", "$Name, kostenlose Zeichnung zum Ausdrucken", "Das Symbol für $name"),
    "es": ("Una imagen de $name", "$Name, dibujo gratis para descargar", "El símbolo de $name"),
    "fr": ("Une image de $name", "$Name, dessin gratuit à télécharger", "Le symbole pour $name"),
    "pt": ("Uma imagem de $name", "$Name, desenho grátis para baixar", "O símbolo de $name"),
    "hi": ("$name का चित्र", "$name, मुफ़्त चित्र"),
    "ja": ("$nameのイラスト", "無料の$nameの画像です"),
    "ru": ("Изображение: $name", "$Name, бесплатный рисунок"),
    "zh": ("$name的图片", "免费下载$name图标"),
}
