"""What ESPnet's recipe for CSJ makes of the surface by accident, for texts that are equal to the letter.

It differs from ``csj_tags``: what stands before an A tag in its word is lost (``小(A エヌ;Ｎ)`` gives Ｎ);
ゼ, ロ or a comma make the tag a numeral; after a numeral of one word every A tag comes from column 9, up to
the end of one of several words; Japanese names of tags stay as text.
"""

import re
from collections.abc import Iterable

from espnet_kd.corpora.csj_sdb import Word
from espnet_kd.corpora.csj_tags import ASCII, tidy

NUMERAL = re.compile("[ゼロ,０零一二三四五六七八九十百千．]")
TIME_DIGITS = 6  # awk prints six significant digits: from 1000 s on hundredths
# What nkf, which decodes there, makes of characters that cp932 maps otherwise.
NKF = str.maketrans("￣―～∥－￥￠￡￢￤", "‾—〜‖−¥¢£¬¦")


def espnet_texts(words: Iterable[Word]) -> list[str]:
    """The text of each word of a talk as ESPnet's recipe has it, "" where a word has none.

    Source:
        csj2kaldi4m.pl, csj_rm_tag.py and csj_rm_tag_sp_space.sh in egs/csj/asr1/local of ESPnet.
    """
    texts = []
    inside = numeral = False
    for word in words:
        surface, written = word.surface, ";" in word.surface
        if "A" not in surface and not inside:
            text = ASCII.sub("", surface)
        elif numeral or ("A" in surface and NUMERAL.search(surface)):
            text = word.plain
            numeral = not (written and inside)  # so a numeral of one word leaves it on
            inside = not written
        else:
            text = ASCII.sub("", surface.split(";")[1]) if written else ""
            inside = not written
        texts.append(tidy(text.translate(NKF)))
    return texts
