"""Normaliser against tables written by hand; tokenizers against merges by hand, and their round trips."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import re
import string
import subprocess
import sys
import unicodedata

import pytest

from lightning_audio.errors import UserError
from lightning_audio.text import normalizer
from lightning_audio.text.normalizer import STEPS, Normalizer
from lightning_audio.text.tokenizers import (
    BPE,
    REFUSED,
    WORD_START,
    Characters,
    Tokenizer,
    UnknownCharacter,
    fit_tokenizer,
    tokenizer_of,
)

SENTENCES = ["press one to call", "press two to hang up", "don't call one two three", "one", "to two"]
# Everything that two passes might treat differently: signs that fold, come apart, vanish or part words.
ODD = list("'’´-–—.,$£€%#&*@+0123456789 adDrMrst.KſİıßϴΣŉ¨½²①Ⅳ\u0301\u0307\u0323\u00ad\u200b‿_\t\n٣१नम")


def run(step: str, text: str, language: str = "en") -> str:
    return Normalizer([step], language)(text)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("don’t don‘t don´t don`t donʼt", "don't don't don't don't don't"),
        ("“so” „so“ «so»", '"so" "so" "so"'),
        ("re‐enter re‑enter 2010–12 −5", "re-enter re-enter 2010-12 -5"),
        ("wait—now", "wait - now"),
        ("ﬁne ｆｕｌｌ Ⅳ …", "fine full IV ..."),
        ("e\u0301t\u00e9", "été"),
        ("co\u00adop\u200b \ufeffhi", "coop hi"),
        ("2½ m²", "2 1⁄2  m 2 "),
        ("a\u00a0b", "a b"),
        ("a¨b", "a b"),
    ],
)
def test_unicode(raw: str, plain: str) -> None:
    assert run("unicode", raw) == plain


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Dr. Smith and DR. Jones", "doctor Smith and doctor Jones"),
        ("Mr.Smith, Mrs. Smith", "mister Smith, missus Smith"),
        ("the first. St. Ives", "the first. saint Ives"),
        ("R&D", "R and D"),
        ("50%.", "50 percent."),
        ("press #, or *", "press pound, or star"),
        ("#*", "pound  star"),
    ],
)
def test_abbreviations(raw: str, words: str) -> None:
    assert run("abbreviations", raw) == words


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("yes [noise] I (inaudible) do", "yes i do"),
        ("<unk> so <v-noise>it{laughter} is</s>", "so it is"),
        ("[BREATH] well (background noise) [um hum]", "well"),
        ("call (me) [5] (555) 123-4567", "call me five five five five one two three four five six seven"),
        ("a < b and b > a", "a b and b a"),
        ("(loud music)", ""),
    ],
)
def test_notes_of_transcribers_are_no_words(raw: str, words: str) -> None:
    assert Normalizer()(raw) == words
    assert Normalizer(STEPS[1:])("[noise]") == "noise"  # the step can be left out


@pytest.mark.parametrize("word", ["น้ำ", "ทำ", "ນ້ຳ", "ຄຳ"])
def test_sara_am_is_kept(word: str) -> None:
    assert run("unicode", word) == word
    assert run("unicode", unicodedata.normalize("NFKC", word)) == word
    assert Normalizer(language="th")(word) == word


def test_own_abbreviations_replace_the_default() -> None:
    normalizer = Normalizer(
        ["abbreviations"], abbreviations={"PBX": "p b x", "e.g.": "for example", "uh": ""}
    )
    assert normalizer("uh the pbx, E.G. a PBXs & co") == " the p b x, for example a PBXs & co"
    # The longest key that fits wins, and the letters i that re.IGNORECASE takes for one are no trap.
    assert Normalizer(["abbreviations"], abbreviations={"i": "1", "i.e.": "2"})("İ.e. I") == "2 1"
    assert Normalizer(["abbreviations"], abbreviations={})("Dr. #") == "Dr. #"
    assert Normalizer(["abbreviations"], language="de")("Dr. #") == "Dr. #"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("press 1 or 42.", "press one or forty-two."),
        ("in 1996", "in one thousand nine hundred and ninety-six"),
        ("1,234,567", "one million two hundred and thirty-four thousand five hundred and sixty-seven"),
        ("1st, 22nd and 100TH", "first, twenty-second and one hundredth"),
        ("the 90s, two 6s", "the nineties, two sixes"),
        ("90's, 7's", "nineties, seven's"),
        ("3.14", "three point one four"),
        ("0.50", "zero point five zero"),
        ("1.0", "one point zero"),
        ("-5 and 2-3", "minus five and two-three"),
        ("007", "zero zero seven"),
        ("123456", "one hundred and twenty-three thousand four hundred and fifty-six"),
        ("1234567", "one two three four five six seven"),
        ("555-0123", "five five five zero one two three"),
        ("1-800-555-1234", "one eight zero zero five five five one two three four"),
        ("version 1.2.30", "version one two thirty"),
        ("5:30", "five:thirty"),
        ("3D, b2b", "three D, b two b"),
        ("$5 $1 £2.50", "five dollars one dollar two pounds fifty pence"),
        ("$5.00 £1.01 $0.50", "five dollars one pound one penny fifty cents"),
        ("€2.5 million", "two point five million euros"),
        ("$1,200.", "one thousand two hundred dollars."),
        ("$2.5", "two point five dollars"),
        ("٣ १२", "three twelve"),
        # More digits than a float holds.
        ("0.12345678901234567890", "zero point" + " one two three four five six seven eight nine zero" * 2),
    ],
)
def test_numbers(raw: str, words: str) -> None:
    assert run("numbers", raw) == words


@pytest.mark.parametrize(
    ("language", "raw", "words"),
    [
        ("de", "21 und 3,50", "einundzwanzig und drei Komma fünf null"),
        ("de", "1.234", "eintausendzweihundertvierunddreißig"),
        ("fr", "12 000 personnes", "douze mille personnes"),
        ("fr", "12\u202f000\u202f000", "douze millions"),
        ("fr", "06 12 34", "zéro six douze trente-quatre"),
        ("sv", "10 000", "tiotusen"),
        ("en", ".5 miles", "point five miles"),
        ("fr", "-80", "moins quatre-vingts"),
        ("fr", "1st", "un st"),  # an English ending
        ("it", "3,14", "tre virgola uno quattro"),
        ("ru", "3,14", "три целых четырнадцать сотых"),  # hundredths, not digits
        ("pl", "-5", "minus pięć"),
        ("es", "007", "cero cero siete"),
    ],
)
def test_numbers_of_other_languages(language: str, raw: str, words: str) -> None:
    assert run("numbers", raw, language=language) == words


@pytest.mark.parametrize(
    ("step", "language", "raw", "changed"),
    [
        ("lower", "en", "ISTANBUL ẞ ΑΣ", "istanbul ß ας"),
        ("lower", "tr", "ISPARTA İZMİR", "ısparta izmir"),
        ("upper", "en", "straße is", "STRASSE IS"),
        ("upper", "tr", "ısparta izmir", "ISPARTA İZMİR"),
    ],
)
def test_case(step: str, language: str, raw: str, changed: str) -> None:
    assert run(step, raw, language=language) == changed


@pytest.mark.parametrize(
    ("keep", "raw", "words"),
    [
        ("'", "Wait, what?!", "Wait what"),
        ("'", "it's 'quoted' rock 'n' roll, users'", "it's quoted rock n roll users"),
        ("'", "a''b 'tis_so", "a b tis so"),
        ("", "it's", "it s"),
        ("'-", "re-enter - now--then don'-t", "re-enter now then don t"),
        ("'?", "who? me.", "who? me"),
        ("'", "naïve 4 नमस्ते e\u0301", "naïve 4 नमस्ते e\u0301"),
        ("'", "a\tb\u2028c ©↑", "a b c"),
    ],
)
def test_punctuation(keep: str, raw: str, words: str) -> None:
    assert Normalizer(["punctuation", "spaces"], keep=keep)(raw) == words


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Please press 1, 2 or #.", "please press one two or pound"),
        ("The time is 5:05 P.M.", "the time is five zero five p m"),
        ("  Dr. O’Neil — 'the 3rd' — isn´t in…", "doctor o'neil the third isn't in"),
        ("3D audio (50% off)", "three d audio fifty percent off"),
        ("H.323", "h three hundred and twenty three"),
        ("re-enter", "re enter"),
        ("C++ & R&D", "c plus plus and r and d"),
        ("... !", ""),
        ("", ""),
    ],
)
def test_default_chain(raw: str, words: str) -> None:
    assert Normalizer()(raw) == words


def test_steps_run_in_their_order_and_spaces_last() -> None:
    assert Normalizer(["spaces", "punctuation", "upper"])(" a, b ") == "A B"
    assert Normalizer(["upper", "numbers"])("a 1") == "A one"
    assert Normalizer([])(" A,  b") == " A,  b"


@pytest.mark.parametrize("steps", [STEPS, ("unicode", "numbers", "upper", "punctuation", "spaces")])
def test_a_second_pass_changes_nothing(steps: tuple[str, ...]) -> None:
    normalizer = Normalizer(steps)
    draw = random.Random(0)
    assigned = [
        chr(code) for code in range(0x3000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
    ]
    texts = [f"a{sign}b {sign}1" for sign in assigned]
    for pool in (ODD, assigned + ODD * 20):
        texts += ["".join(draw.choices(pool, k=draw.randint(1, 12))) for _ in range(2000)]
    once = [normalizer(text) for text in texts]
    assert [normalizer(text) for text in once] == once
    assert not [text for text in once if text != " ".join(text.split())]
    left = set("".join(once)) - {" ", "'"}
    assert {unicodedata.category(sign)[0] for sign in left} == {"L", "M"}


def test_normalizer_goes_to_other_processes() -> None:
    raw = "Dr. O’Neil's 3rd, $5.20"
    said = "doctor o'neil's third five dollars twenty cents"
    for same in (pickle.loads(pickle.dumps(Normalizer())), copy.deepcopy(Normalizer())):
        assert same(raw) == said


def test_unknown_step_or_language() -> None:
    with pytest.raises(
        UserError,
        match=r"no step 'punctation' .*did you mean 'punctuation'.*choose from annotations, unicode",
    ):
        Normalizer(["lower", "punctation"])
    with pytest.raises(UserError, match=r"task.text.language=eng \(did you mean 'en'\?\)"):
        Normalizer(language="eng")
    assert Normalizer(["lower"], language="eng")("A") == "a"  # numbers alone need to know it


def test_prompts_become_letters(real_data) -> None:
    manifest = real_data("phone-prompts-en") / "phone-prompts-en" / "train.jsonl"
    rows = [json.loads(line)["text"] for line in manifest.read_text(encoding="utf-8").splitlines()]
    texts = [Normalizer()(row) for row in rows]
    assert "".join(sorted(set("".join(texts)))) == " 'abcdefghijklmnopqrstuvwxyz"
    assert all(texts)
    assert "press star to toggle pause press pound to enter a new dictation filename" in texts
    for kind, size in (("characters", None), ("bpe", 100)):
        tokenizer = fit_tokenizer(texts, kind, size)
        assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_characters() -> None:
    tokenizer = fit_tokenizer(["bad cab", "a"])
    assert tokenizer.vocabulary == (" ", "a", "b", "c", "d")
    assert tokenizer.encode("bad cab") == [2, 1, 4, 0, 3, 1, 2]
    assert tokenizer.decode([3, 1, 2, 0, 0, 1]) == "cab  a"
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_alphabet_is_what_is_known(kind: str) -> None:
    size = {"characters": None, "bpe": 4}[kind]
    tokenizer = fit_tokenizer(["zaz a b"], kind, size, alphabet="cba ")
    own = {"characters": ("c", "b", "a", " "), "bpe": ("a", "b", "c", WORD_START)}[kind]
    assert tokenizer.vocabulary == own
    assert tokenizer.decode(tokenizer.encode("cab a")) == "cab a"
    with pytest.raises(UnknownCharacter):
        tokenizer.encode("zaz")


def test_words_are_tokens_of_their_own() -> None:
    tokenizer = fit_tokenizer(["sil k ae t sil", "ax k"], "words")
    assert tokenizer.vocabulary == tuple(f"{WORD_START}{phone}" for phone in ("ae", "ax", "k", "sil", "t"))
    assert tokenizer.encode("k ax t") == [2, 1, 4]
    assert tokenizer.decode([2, 1, 1, 4]) == "k ax ax t"
    assert (tokenizer.encode(""), tokenizer.decode([])) == ([], "")
    same = tokenizer_of(json.loads(json.dumps(tokenizer.state())))
    assert (type(same), same.state()) == (type(tokenizer), tokenizer.state())
    with pytest.raises(UnknownCharacter, match="the word 'zh' is not in the vocabulary"):
        tokenizer.encode("k zh")
    chosen = fit_tokenizer(["k"], "words", alphabet=["t", "k"])
    assert chosen.vocabulary == (f"{WORD_START}t", f"{WORD_START}k")


# Pairs counted by hand: "ab" 7, then WORD_START + "c" 5 (against 3 of "c" + "ab"), then these two 3.
TOY = ["cab cab cab cup cup", "dab dab", "eab eab"]


def test_bpe_merges_by_hand() -> None:
    tokenizer = fit_tokenizer(TOY, "bpe", 11)
    assert isinstance(tokenizer, BPE)
    assert tokenizer.vocabulary == (*"abcdepu▁", "ab", "▁c", "▁cab")
    assert tokenizer.merges == (("a", "b"), ("▁", "c"), ("▁c", "ab"))
    tokens = [tokenizer.vocabulary[number] for number in tokenizer.encode("cab dab pcab  abab")]
    assert tokens == ["▁cab", "▁", "d", "ab", "▁", "p", "c", "ab", "▁", "▁", "ab", "ab"]


def merged(word: str, merges: tuple[tuple[str, str], ...]) -> list[str]:
    """The definition: the earliest merge that fits anywhere, from left to right, until none does."""
    parts = list(word)
    while True:
        pairs = list(itertools.pairwise(parts))
        first = min((merges.index(pair) for pair in pairs if pair in merges), default=None)
        if first is None:
            return parts
        at = pairs.index(merges[first])
        parts[at : at + 2] = ["".join(merges[first])]


def test_bpe_encodes_by_its_definition() -> None:
    tokenizer = fit_tokenizer(SENTENCES * 2, "bpe", 46)
    assert isinstance(tokenizer, BPE)
    draw = random.Random(0)
    for _ in range(200):
        words = ["".join(draw.choices("onetwpras", k=draw.randint(0, 7))) for _ in range(3)]
        expected = [part for word in words for part in merged(WORD_START + word, tokenizer.merges)]
        assert [tokenizer.vocabulary[number] for number in tokenizer.encode(" ".join(words))] == expected


@pytest.fixture(params=["characters", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return fit_tokenizer(SENTENCES * 2, request.param, {"characters": None, "bpe": 40}[request.param])


@pytest.mark.parametrize("text", [*SENTENCES, "", " ", "  one ", "one  two", "pol"])
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_ids_make_a_text(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(range(len(tokenizer.vocabulary)))
    assert text == "".join(tokenizer.vocabulary).replace(WORD_START, " ")


def test_state_is_json_of_an_equal_tokenizer(tokenizer: Tokenizer) -> None:
    same = tokenizer_of(json.loads(json.dumps(tokenizer.state())))
    assert type(same) is type(tokenizer)
    assert same.state() == tokenizer.state()
    for other in (same, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert other.vocabulary == tokenizer.vocabulary
        assert [other.encode(text) for text in SENTENCES] == [tokenizer.encode(text) for text in SENTENCES]


def test_vocabulary_has_no_special_tokens(tokenizer: Tokenizer) -> None:
    known = set("".join(SENTENCES)) - {" "} | ({" "} if isinstance(tokenizer, Characters) else {WORD_START})
    assert {token for token in tokenizer.vocabulary if len(token) == 1} == known
    assert set("".join(tokenizer.vocabulary)) == known
    assert len(set(tokenizer.vocabulary)) == len(tokenizer.vocabulary)


@pytest.mark.parametrize(("text", "unknown"), [("one z", "z"), ("oné", "é"), ("▁one", "▁"), ("One", "O")])
def test_unknown_character(tokenizer: Tokenizer, text: str, unknown: str) -> None:
    with pytest.raises(UnknownCharacter, match="is not in the vocabulary") as raised:
        tokenizer.encode(text)
    assert raised.value.character == unknown
    assert isinstance(raised.value, ValueError)
    assert pickle.loads(pickle.dumps(raised.value)).character == unknown


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_order_of_texts_does_not_matter(kind: str) -> None:
    size = {"characters": None, "bpe": 45}[kind]
    texts = SENTENCES * 3
    states = []
    for seed in range(5):
        random.Random(seed).shuffle(texts)
        states.append(fit_tokenizer(iter(texts), kind, size).state())
    assert states == [states[0]] * 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "bpee"}, r"tokenizer.kind=bpee is none \(did you mean 'bpe'\?\)"),
        ({"kind": "bpe"}, r"tokenizer.size=None does not fit BPE: set 8 or more"),
        ({"kind": "bpe", "size": 7}, r"tokenizer.size=7 does not fit BPE: set 8 or more"),
        ({"kind": "bpe", "size": 500}, r"tokenizer.size=500 is more than .* give: set 1\d or less"),
        ({"size": 20}, r"tokenizer.size=20 is for BPE"),
        ({"alphabet": "abca"}, r"'a' stands twice"),
        ({"alphabet": ""}, r"No character is known"),
    ],
)
def test_options_that_do_not_fit(options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        fit_tokenizer(TOY, **options)


def test_bounds_of_the_size_are_sizes_that_fit() -> None:
    with pytest.raises(UserError) as raised:
        fit_tokenizer(TOY, "bpe", 500)
    most = int(str(raised.value).split("set ")[1].split()[0])
    assert len(fit_tokenizer(TOY, "bpe", most).vocabulary) == most
    assert len(fit_tokenizer(TOY, "bpe", 8).vocabulary) == 8


def test_texts_without_characters() -> None:
    with pytest.raises(UserError, match="No character is known"):
        fit_tokenizer(["", ""])


def test_bpe_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    state = fit_tokenizer(TOY, "bpe", 11).state()
    ids = tokenizer_of(state).encode("cab dab")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'lightning-audio\[speech\]'"):
        fit_tokenizer(TOY, "bpe", 11)
    assert tokenizer_of(state).decode(ids) == "cab dab"  # a recogniser runs without


def test_processes_forked_later_bring_no_warning() -> None:
    code = """
import os
from lightning_audio.text.tokenizers import fit_tokenizer
tokenizer = fit_tokenizer(["ab ab ab"], "bpe", 4)
child = os.fork()
print(tokenizer.encode("ab"))
os._exit(0) if child == 0 else os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("state", [{}, {"kind": "unigram"}, {"kind": "bpe", "vocabulary": ["a"]}, []])
def test_state_of_something_else(state: dict) -> None:
    with pytest.raises(UserError, match="no vocabulary"):
        tokenizer_of(state)


def compatible(text: str) -> str:
    """The table of signs and NFKC, twice, of every text."""
    for _ in range(2):
        text = unicodedata.normalize("NFKC", "".join(map(normalizer._plain, text)))
    return text


def random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    parts = [
        *ODD,
        *string.printable,
        *"the cat dog street etc. mr. mrs vs. ſt. don't 'tis -it a-b ab".split(" "),  # noqa: SIM905
    ]
    parts += ["[noise]", "<unk>", "(um, laughs)", "{x", "dr.", "ETC.", "Kr.", *" " * 40, *"aeio" * 5]
    return ["".join(rng.choices(parts, k=rng.randrange(40))) for _ in range(number)]


def test_what_is_left_out_for_speed_would_change_nothing() -> None:
    folded = {letter for letter in map(chr, range(128, 0x30000)) if re.match("[a-z]", letter, re.IGNORECASE)}
    assert folded == set(normalizer.FOLDED)
    single = [f"a{chr(code)}b" for code in range(0x3100) if chr(code) not in "ºª\u0e33\u0eb3"]
    assert [normalizer._unicode(text) for text in single] == [compatible(text) for text in single]
    abbreviations, punctuation = Normalizer(["abbreviations"]), Normalizer(["punctuation"])
    pattern = copy.deepcopy(abbreviations)
    pattern._chain[0][1].ascii_keys = None  # type: ignore[attr-defined]
    table = punctuation._chain[0][1].table  # type: ignore[attr-defined]
    for text in random_texts(3000):
        assert run("annotations", text) == normalizer._ANNOTATION.sub(" ", text)
        assert abbreviations(text) == pattern(text)
        plain = "".join(map(table.becomes, text))
        assert punctuation(text) == re.sub(r"(?<![^\s'-])['-]|['-](?![^\s'-])", " ", plain)
        assert run("lower", text) == unicodedata.normalize("NFC", text.lower())


@pytest.mark.parametrize(("kind", "size"), [("characters", None), ("bpe", 105), ("words", None)])
def test_many_texts_are_encoded_as_each_by_itself(kind: str, size: int | None) -> None:
    texts = random_texts(3000)
    tokenizer = fit_tokenizer([text for text in texts if text.isascii()], kind, size)
    ids, counts = tokenizer.encode_all(texts)
    expected: list[int] = []
    for text, count in zip(texts, counts.tolist(), strict=True):
        try:
            found = tokenizer.encode(text)
        except UnknownCharacter:
            assert count == REFUSED
        else:
            assert count == len(found)
            expected += found
    assert ids.tolist() == expected
    assert 100 < (counts == REFUSED).sum() < 2900
    assert [len(found) for found in tokenizer.encode_all([])] == [0, 0]


def test_byte_pairs_of_a_text_are_those_of_the_library() -> None:
    texts = [text.replace(WORD_START, "") for text in random_texts(300)]
    tokenizer = fit_tokenizer(texts, "bpe", 200)
    assert isinstance(tokenizer, BPE)
    whole = [
        tokenizer._model.encode(WORD_START + text.replace(" ", WORD_START)).ids for text in texts if text
    ]
    assert [tokenizer.encode(text) for text in texts if text] == whole
