"""Released speech corpora, each on a release made up here in its official layout."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sine, write_wav

from lightning_audio import build
from lightning_audio.config import compose_config
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora import librispeech
from lightning_audio.data.corpora.an4 import AN4
from lightning_audio.data.corpora.common_voice import CommonVoice
from lightning_audio.data.corpora.fleurs import Fleurs
from lightning_audio.data.corpora.librispeech import LibriSpeech
from lightning_audio.data.corpora.ljspeech import LJSpeech
from lightning_audio.data.corpora.multilingual_librispeech import MultilingualLibriSpeech
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.data.corpora.tedlium3 import TedLium3
from lightning_audio.data.corpora.voxpopuli import VoxPopuli
from lightning_audio.data.corpora.yesno import YesNo
from lightning_audio.data.decode import decode
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError
from lightning_audio.training.run import train

RATE = 16000
TONE = (sine(440, 0.02, RATE) * 32767).astype(np.int16)


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def refusal(speaker: int, n: int) -> str:
    return f"{chr(ord('A') + speaker % 26)} IT'S {('NOUGHT', 'ONE')[n]}"


def librispeech_release(root: Path) -> Path:
    """Two utterances in each of two chapters of the default subsets, and what else lies in the release."""
    for first, subset in (
        (103, "train-clean-100"),
        (84, "dev-clean"),
        (61, "test-clean"),
        (367, "test-other"),
    ):
        for speaker, chapter in ((first, 1240), (first + 1000, 7)):
            folder, prefix = root / subset / str(speaker) / str(chapter), f"{speaker}-{chapter}"
            write(folder / f"{prefix}.trans.txt", [f"{prefix}-000{n} {refusal(speaker, n)}" for n in (0, 1)])
            for n in (0, 1):
                touch(folder / f"{prefix}-000{n}.flac")
    write(root / "SPEAKERS.TXT", ["; ID"])
    touch(root / "train-clean-100" / "._103")
    return root


def an4_release(root: Path, suffix: str = "sph") -> Path:
    train = [
        ("an4_clstk/fash/an251-fash-b", "YES"),
        ("an4_clstk/mblw/cen7-mblw-b", "RUBOUT G M E F  THREE NINE"),
    ]
    test = [("an4test_clstk/fcaw/an406-fcaw-b", "GO"), ("an4test_clstk/fcaw/cen1-fcaw-b", "P I T T")]
    write(root / "etc" / "an4_train.fileids", [path for path, _ in train])
    write(root / "etc" / "an4_test.fileids", [path for path, _ in test[::-1]])
    marked = [f"<s> {text} </s> ({path.rpartition('/')[2]})" for path, text in train]
    write(root / "etc" / "an4_train.transcription", marked)
    write(
        root / "etc" / "an4_test.transcription",
        [f"{text} ({path.rpartition('/')[2]})" for path, text in test],
    )
    for path, _ in train + test:
        touch(root / "wav" / f"{path}.{suffix}")
    return root


def yesno_release(root: Path) -> Path:
    for number in range(60):
        touch(root / f"{'_'.join(f'{number:08b}')}.wav")
    write(root / "README", ["sixty utterances"])
    return root


def ljspeech_release(root: Path) -> Path:
    names = [f"LJ{part:03d}-{number:04d}" for part in range(1, 21) for number in range(1, 6)]
    write(root / "metadata.csv", [f'{name}|"He" paid £5,|"He" paid five pounds, {name}' for name in names])
    for name in names:
        touch(root / "wavs" / f"{name}.wav")
    return root


def common_voice_release(root: Path, release: str = "cv-corpus-17.0-2024-03-15") -> Path:
    folder = root / release / "en"
    for table, voice in (("train", "a1"), ("dev", "b2"), ("test", "c3")):
        header = "client_id\tpath\tsentence_id\tsentence\tup_votes"
        rows = [f'{voice}\tcommon_voice_en_{voice}{n}.mp3\t9\t"Well," {voice} said.\t2' for n in (0, 1)]
        write(folder / f"{table}.tsv", [header, *rows])
        for n in (0, 1):
            touch(folder / "clips" / f"common_voice_en_{voice}{n}.mp3")
    return root


def multilingual_librispeech_release(root: Path) -> Path:
    """Two utterances a split, in German; one of those to train on is of the limited ones."""
    folder = root / "mls_german"
    for part, speaker in (("train", 7), ("dev", 8), ("test", 9)):
        names = [f"{speaker}_12_00000{n}" for n in (0, 1)]
        write(folder / part / "transcripts.txt", [f"{name}\tdas ist {name[-1]}" for name in names])
        for name in names:
            touch(folder / part / "audio" / str(speaker) / "12" / f"{name}.flac")
    write(folder / "train" / "limited_supervision" / "1hr" / "0" / "handles.txt", ["7_12_000001"])
    return root


def fleurs_release(root: Path) -> Path:
    for part, sentence in (("train", 11), ("dev", 12), ("test", 13)):
        rows = [f'{sentence}\t{sentence}{n}.wav\tEr sagt "ja".\ter sagt ja\te r |\t320\tMALE' for n in (0, 1)]
        write(root / "de_de" / f"{part}.tsv", rows)
        for n in (0, 1):
            touch(root / "de_de" / "audio" / part / f"{sentence}{n}.wav")
    return root


def voxpopuli_release(root: Path) -> Path:
    """One speaker stands in train and in test, and one utterance has no transcript."""
    folder = root / "transcribed_data" / "de"
    for part, speaker in (("train", "1"), ("dev", "2"), ("test", "1")):
        names = [f"2013100{n}-0900-PLENARY-{part}-de_20131007-21:26:04_{n}" for n in (0, 1, 2)]
        texts = ("Ja, Herr!\tja herr", "Nein.\tnein", "\t")
        header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender"
        rows = [f"{name}\t{text}\t{speaker}\t{part}\tmale" for name, text in zip(names, texts, strict=True)]
        write(folder / f"asr_{part}.tsv", [header, *rows])
        for name in names[:2]:
            touch(folder / "2013" / f"{name}.ogg")
    return root


def tedlium3_release(root: Path) -> Path:
    for part, talk in (
        ("data", "A_2009"),
        ("data", "B_2010"),
        ("legacy/dev", "C_2011"),
        ("legacy/test", "D_2012"),
    ):
        lines = [
            ";; of a talk",
            f"{talk} 1 {talk[0]} 0 17.82 <o,f0,female> ignore_time_segment_in_scoring",
            f"{talk} 1 {talk[0]} 17.82 28.81 <o,f0,female> it 's <unk> {talk[0].lower()}",
        ]
        write(root / part / "stm" / f"{talk}.stm", lines)
        touch(root / part / "sph" / f"{talk}.sph")
    return root


RELEASES: dict[type[SpeechCorpus], Callable[[Path], Path]] = {
    LibriSpeech: librispeech_release,
    AN4: an4_release,
    YesNo: yesno_release,
    LJSpeech: ljspeech_release,
    CommonVoice: common_voice_release,
    MultilingualLibriSpeech: multilingual_librispeech_release,
    Fleurs: fleurs_release,
    VoxPopuli: voxpopuli_release,
    TedLium3: tedlium3_release,
}
LANGUAGES = {Fleurs: "de_de", VoxPopuli: "de"}  # of those made up, where it is not the default


def corpus(kind: type[SpeechCorpus], root: Path, **options: Any) -> Any:
    language = {"language": LANGUAGES[kind]} if kind in LANGUAGES else {}
    return kind(str(root), str(root.parent / "cache"), **(language | options))


def brief(clips: list[Clip], root: Path) -> list[tuple[str | None, ...]]:
    ordered = validated(clips, "made up")
    return [(c.id, str(Path(c.path).relative_to(root)), c.text, c.split, c.group) for c in ordered]


@pytest.mark.parametrize("kind", RELEASES)
def test_a_release_has_unique_rows_whose_audio_is_there_and_splits_that_share_no_group(
    kind: type[SpeechCorpus], tmp_path: Path
) -> None:
    clips = validated(corpus(kind, RELEASES[kind](tmp_path / "release")).clips(), kind.title)
    refuse_leaks(clips)
    assert {"train", "test"} <= {clip.split for clip in clips} <= {"train", "val", "test"}
    assert all(Path(clip.path).is_file() and clip.text and not clip.labels for clip in clips)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".opus", ".FLAC"])
@pytest.mark.parametrize("kind", RELEASES)
def test_a_mirror_may_hold_the_audio_in_any_format(
    kind: type[SpeechCorpus], suffix: str, tmp_path: Path
) -> None:
    root = RELEASES[kind](tmp_path / "release")
    clips = corpus(kind, root).clips()
    for clip in clips:
        Path(clip.path).rename(Path(clip.path).with_suffix(suffix))
    found = corpus(kind, root).clips()
    assert found == [replace(clip, path=str(Path(clip.path).with_suffix(suffix))) for clip in clips]
    Path(found[0].path).with_suffix(".aiff").touch()  # a second one changes nothing
    assert len(corpus(kind, root).clips()) == len(clips)
    if kind is not YesNo:  # which has no table of what should be there
        Path(found[-1].path).unlink()
        with pytest.raises(UserError, match=r"1 of \d+ audio files that .* lists are not there"):
            corpus(kind, root).clips()


@pytest.mark.parametrize("kind", RELEASES)
def test_a_configuration_finds_the_release_under_the_data_root(
    kind: type[SpeechCorpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_AUDIO_DATA", str(tmp_path))
    names = {"LibriSpeech": "LibriSpeech", "AN4": "an4", "YesNo": "waves_yesno", "LJSpeech": "LJSpeech-1.1"}
    names |= {"Fleurs": "fleurs", "VoxPopuli": "voxpopuli", "TedLium3": "TEDLIUM_release-3"}
    RELEASES[kind](tmp_path / names.get(kind.__name__, ""))
    name = kind.__module__.rpartition(".")[2]
    language = [f"data.language={LANGUAGES[kind]}"] if kind in LANGUAGES else []
    found = build.corpus(compose_config([f"data={name}", *language]))
    assert type(found) is kind
    assert found.sample_rate == (8000 if kind is YesNo else RATE)
    assert len(found.clips()) > 3


@pytest.mark.parametrize("kind", RELEASES)
def test_a_missing_release_is_one_sentence_with_the_way_to_it(
    kind: type[SpeechCorpus], tmp_path: Path
) -> None:
    missing = corpus(kind, tmp_path / "nothing")
    missing.prepare()
    with pytest.raises(UserError) as error:
        missing.clips()
    ways: dict[type[SpeechCorpus], str] = {CommonVoice: "without an account"}
    ways |= dict.fromkeys((LibriSpeech, AN4, YesNo, LJSpeech), "data.download=true")
    way = ways.get(kind, "put the release of")
    assert all(part in str(error.value) for part in (way, str(tmp_path / "nothing"), kind.title))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", [kind for kind in RELEASES if kind is not YesNo], ids=lambda kind: kind.__name__
)
def test_missing_audio_is_counted_in_one_sentence(kind: type[SpeechCorpus], tmp_path: Path) -> None:
    root = RELEASES[kind](tmp_path / "release")
    clips = corpus(kind, root).clips()
    for clip in clips[:2]:
        Path(clip.path).unlink()
    message = (
        rf"2 of {len(clips)} audio files that {kind.title} lists are not there, such as .*: the release is"
    )
    with pytest.raises(UserError, match=message) as error:
        corpus(kind, root).clips()
    assert all(clip.path in str(error.value) for clip in clips[:2])


# LibriSpeech


def test_librispeech_lists_its_utterances(tmp_path: Path) -> None:
    root = librispeech_release(tmp_path / "LibriSpeech")
    found = brief(corpus(LibriSpeech, root).clips(), root)
    expected = [
        (f"{s}-{c}-000{n}", f"{subset}/{s}/{c}/{s}-{c}-000{n}.flac", refusal(s, n), split, str(s))
        for subset, split, speakers in (
            ("train-clean-100", "train", (103, 1103)),
            ("dev-clean", "val", (84, 1084)),
            ("test-clean", "test", (61, 1061)),
        )
        for s, c in zip(speakers, (1240, 7), strict=True)
        for n in (0, 1)
    ]
    assert found == sorted(expected)


def test_librispeech_takes_the_subsets_that_are_named(tmp_path: Path) -> None:
    root = librispeech_release(tmp_path / "LibriSpeech")
    options = {"train": ["train-clean-100", "dev-clean"], "val": None, "test": "test-other"}
    splits = Counter((clip.group, clip.split) for clip in corpus(LibriSpeech, root, **options).clips())
    trained = {(speaker, "train"): 2 for speaker in ("103", "1103", "84", "1084")}
    assert splits == trained | {("367", "test"): 2, ("1367", "test"): 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test": "test-claen"},
            r"no subset 'test-claen' .*did you mean 'test-clean'.*: set data\.test to one of",
        ),
        ({"train": ["train-clean"]}, r"no subset 'train-clean' .*: set data\.train to"),
        ({"train": "dev-clean"}, "named twice"),
        ({"train": ["train-clean-100", "train-clean-100"]}, "named twice"),
    ],
)
def test_a_wrong_subset_is_one_sentence(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        corpus(LibriSpeech, tmp_path, **options)


def test_a_half_unpacked_subset_is_one_sentence(tmp_path: Path) -> None:
    root = librispeech_release(tmp_path / "LibriSpeech")
    chapter = root / "dev-clean" / "84" / "1240"
    table = chapter / "84-1240.trans.txt"
    rows = table.read_text().splitlines()
    for content, message in (
        ([rows[0]], r"84-1240\.trans\.txt has no transcript of 84-1240-0001:"),
        ([rows[0], "84-1240-0001"], r"damaged at line 2, which is not `84-1240-NNNN TRANSCRIPT`"),
        ([rows[0], "85-1240-0001 TEXT"], r"damaged at line 2"),
    ):
        write(table, content)
        with pytest.raises(UserError, match=message):
            corpus(LibriSpeech, root).clips()
    table.unlink()
    with pytest.raises(
        UserError, match=r"1240 has no 84-1240\.trans\.txt: dev-clean is not whole, unpack it anew"
    ):
        corpus(LibriSpeech, root).clips()


def packed(path: Path, root: Path, name: str) -> str:
    """Packs a release under its `name`, beside a text as in LibriSpeech; the archive's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        text = tarfile.TarInfo(f"{name.partition('/')[0]}/README.TXT")
        text.size = 5
        archive.addfile(text, io.BytesIO(b"Hello"))
        archive.add(root, name)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("writable", [True, False])
def test_only_the_subsets_that_are_missing_are_fetched(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not writable:
        monkeypatch.setattr("lightning_audio.data.download.os.access", lambda *_: False)
    made, root = librispeech_release(tmp_path / "made"), tmp_path / "data" / "LibriSpeech"
    root.mkdir(parents=True)
    (made / "train-clean-100").rename(root / "train-clean-100")
    for name in ("dev-clean", "test-clean"):
        digest = packed(tmp_path / "cache" / f"{name}.tar.gz", made / name, f"LibriSpeech/{name}")
        monkeypatch.setitem(librispeech.SUBSETS, name, replace(librispeech.SUBSETS[name], sha256=digest))
    fetched = LibriSpeech(str(root), str(tmp_path / "cache"), download=True)
    fetched.prepare()
    folders = {clip.split: Path(clip.path).parents[2] for clip in fetched.clips()}
    where = root if writable else tmp_path / "cache" / "LibriSpeech"
    assert folders == {
        "train": root / "train-clean-100",
        "val": where / "dev-clean",
        "test": where / "test-clean",
    }
    assert {path.name for path in where.iterdir()} == {f.name for f in folders.values() if f.parent == where}


@pytest.mark.parametrize("kind", [AN4, YesNo, LJSpeech])
def test_a_release_is_fetched_once(
    kind: type[SpeechCorpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RELEASES[kind](tmp_path / "made")
    assert kind.release is not None
    archive = tmp_path / "cache" / kind.release.url.rpartition("/")[2]
    digest = packed(archive, made, kind.release.folder)
    monkeypatch.setattr(kind, "release", replace(kind.release, sha256=digest))
    root = tmp_path / "data" / kind.release.folder
    for _ in range(2):
        fetched = kind(str(root), str(tmp_path / "cache"), download=True)
        fetched.prepare()
        assert brief(fetched.clips(), root) == brief(corpus(kind, made).clips(), made)
        archive.unlink(missing_ok=True)  # the second time there is nothing to unpack
    assert (root / "README.TXT").read_text() == "Hello"


def test_every_archive_is_pinned() -> None:
    kinds = (AN4.release, YesNo.release, LJSpeech.release)
    for release in (*librispeech.SUBSETS.values(), *filter(None, kinds)):
        assert len(bytes.fromhex(release.sha256)) == 32
        assert release.url.startswith("https://")
        assert release.size > 1e6


# AN4


def test_an4_lists_its_utterances_without_markup(tmp_path: Path) -> None:
    root = an4_release(tmp_path / "an4")
    train, test = "wav/an4_clstk", "wav/an4test_clstk"
    assert brief(corpus(AN4, root).clips(), root) == [
        ("an251-fash-b", f"{train}/fash/an251-fash-b.sph", "YES", "train", "fash"),
        ("an406-fcaw-b", f"{test}/fcaw/an406-fcaw-b.sph", "GO", "test", "fcaw"),
        ("cen1-fcaw-b", f"{test}/fcaw/cen1-fcaw-b.sph", "P I T T", "test", "fcaw"),
        ("cen7-mblw-b", f"{train}/mblw/cen7-mblw-b.sph", "RUBOUT G M E F  THREE NINE", "train", "mblw"),
    ]


def sphere(samples: np.ndarray) -> bytes:
    """As in the release: a header of 1,024 bytes, then samples with their high byte first."""
    fields = ("channel_count -i 1", f"sample_count -i {len(samples)}", f"sample_rate -i {RATE}")
    coding = ("sample_n_bytes -i 2", "sample_byte_format -s2 10", "sample_sig_bits -i 16", "end_head")
    header = "\n".join(("NIST_1A", "   1024", *fields, *coding, ""))
    return header.encode().ljust(1024) + samples.astype(">i2").tobytes()


def test_sphere_files_are_decoded_bit_for_bit(tmp_path: Path) -> None:
    clip = corpus(AN4, an4_release(tmp_path / "an4")).clips()[0]
    Path(clip.path).write_bytes(sphere(TONE))
    np.testing.assert_array_equal(decode(clip.path, RATE), TONE)


def test_a_converted_release_is_read_and_one_without_headers_is_one_sentence(tmp_path: Path) -> None:
    clips = corpus(AN4, an4_release(tmp_path / "wav", "wav")).clips()
    assert {Path(clip.path).suffix for clip in clips} == {".wav"}
    with pytest.raises(UserError, match=r"AN4 as \.raw files, .* put the release in sphere format"):
        corpus(AN4, an4_release(tmp_path / "raw", "raw")).clips()


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("an4_test.transcription", ["GO"], r"an4_test\.transcription is damaged at line 1"),
        ("an4_test.transcription", ["GO (an1-fcaw-b)"], "of an4_test in .* differ, such as in an1-fcaw-b"),
        ("an4_train.fileids", [], "of an4_train in .* differ, such as in an251-fash-b"),
    ],
)
def test_a_table_of_an4_that_does_not_fit_is_one_sentence(
    name: str, lines: list[str], message: str, tmp_path: Path
) -> None:
    root = an4_release(tmp_path / "an4")
    write(root / "etc" / name, lines)
    with pytest.raises(UserError, match=message):
        corpus(AN4, root).clips()


# YesNo and LJ Speech, which have no split of their own


def test_yesno_reads_the_words_from_the_name(tmp_path: Path) -> None:
    root = yesno_release(tmp_path / "waves_yesno")
    texts = {clip.id: clip.text for clip in corpus(YesNo, root).clips()}
    assert len(texts) == 60
    assert texts["0_0_1_1_0_0_1_0"] == "NO NO YES YES NO NO YES NO"
    spoken = {clip.id: clip.text for clip in corpus(YesNo, root, words=["LO", "KEN"]).clips()}
    assert spoken["0_0_1_1_0_0_1_0"] == "LO LO KEN KEN LO LO KEN LO"
    with pytest.raises(UserError, match=r"data\.words=.* are not two words"):
        corpus(YesNo, root, words=["YES"])


def test_the_split_of_yesno_depends_on_its_seed_alone(tmp_path: Path) -> None:
    root = yesno_release(tmp_path / "waves_yesno")
    first, again, other = (
        {clip.id: clip.split for clip in corpus(YesNo, root, split_seed=seed).clips()} for seed in (0, 0, 1)
    )
    assert first == again != other
    assert Counter(first.values()) == Counter(other.values()) == {"train": 42, "val": 6, "test": 12}


def test_ljspeech_reads_both_columns_and_keeps_recordings_whole(tmp_path: Path) -> None:
    root = ljspeech_release(tmp_path / "LJSpeech-1.1")
    shares = {"val_share": 0.1, "test_share": 0.2}
    clips = corpus(LJSpeech, root, **shares).clips()
    one = next(clip for clip in clips if clip.id == "LJ003-0004")
    assert (one.text, one.group) == ('"He" paid five pounds, LJ003-0004', "LJ003")
    assert one.path == str(root / "wavs" / "LJ003-0004.wav")
    written = corpus(LJSpeech, root, text="written", **shares).clips()
    assert {clip.text for clip in written} == {'"He" paid £5,'}
    assert Counter(clip.split for clip in clips) == {"train": 70, "val": 10, "test": 20}
    assert all(count == 5 for count in Counter((clip.group, clip.split) for clip in clips).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 0.6, "val_share": 0.4}, r"data\.val_share=0\.4 leaves a split empty"),
        ({"test_share": 0.0}, r"data\.test_share=0\.0 leaves a split empty"),
        ({"val_share": 0.001}, r"data\.val_share is less than one group of the 100 utterances"),
        ({"text": "spoken"}, r"no text 'spoken' in LJ Speech: set data\.text to one of written, normalised"),
    ],
)
def test_a_wrong_option_of_a_split_is_one_sentence(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    root = ljspeech_release(tmp_path / "LJSpeech-1.1")
    with pytest.raises(UserError, match=message):
        corpus(LJSpeech, root, **options).clips()


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    root = ljspeech_release(tmp_path / "LJSpeech-1.1")
    (root / "metadata.csv").write_text("LJ001-0001|One|one\nLJ001-0002|Two\n")
    with pytest.raises(
        UserError, match=r"metadata\.csv is damaged at line 2, .*`NAME\|AS WRITTEN\|NORMALISED`"
    ):
        corpus(LJSpeech, root).clips()
    (root / "metadata.csv").write_bytes(b"LJ001-0001|caf\xe9|cafe\n")
    with pytest.raises(UserError, match=r"metadata\.csv is not UTF-8"):
        corpus(LJSpeech, root).clips()


def test_a_line_ends_only_where_the_file_says_so(tmp_path: Path) -> None:
    """Unicode has line separators of its own, and a release may have come through Windows."""
    root = ljspeech_release(tmp_path / "LJSpeech-1.1")
    names = [f"LJ{part:03d}-0001" for part in range(1, 6)]
    table = "".join(f"{name}|a\u2028b\x85|c\u2028d\r\n" for name in names)
    (root / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    clips = corpus(LJSpeech, root, val_share=0.2, test_share=0.2).clips()
    assert {clip.text for clip in clips} == {"c\u2028d"}
    assert sorted(clip.id for clip in clips) == names


# Common Voice


def test_common_voice_lists_the_clips_of_its_tables(tmp_path: Path) -> None:
    root = common_voice_release(tmp_path / "data")
    folder = root / "cv-corpus-17.0-2024-03-15" / "en"
    assert brief(corpus(CommonVoice, root).clips(), folder) == [
        (
            f"common_voice_en_{voice}{n}",
            f"clips/common_voice_en_{voice}{n}.mp3",
            f'"Well," {voice} said.',
            split,
            voice,
        )
        for voice, split in (("a1", "train"), ("b2", "val"), ("c3", "test"))
        for n in (0, 1)
    ]


def test_one_of_several_releases_has_to_be_named(tmp_path: Path) -> None:
    root = common_voice_release(common_voice_release(tmp_path / "data"), "cv-corpus-18.0-2024-06-14")
    with pytest.raises(UserError, match=r"cv-corpus-17\.0-.*, cv-corpus-18\.0-.*: set data\.release to one"):
        corpus(CommonVoice, root).clips()
    clips = corpus(CommonVoice, root, release="cv-corpus-18.0-2024-06-14").clips()
    assert all("cv-corpus-18.0" in clip.path for clip in clips)
    with pytest.raises(UserError, match=r"There is no cv-corpus-19 in .* without an account"):
        corpus(CommonVoice, root, release="cv-corpus-19").clips()


@pytest.mark.parametrize(
    ("options", "table", "message"),
    [
        ({"language": "eu"}, None, r"no train\.tsv of the language 'eu': set data\.language to one of en"),
        ({}, ["client_id\tpath", "a\tb"], r"dev\.tsv has no column sentence"),
        ({}, ["client_id\tpath\tsentence", "a\tb"], r"dev\.tsv is damaged at line 2"),
    ],
)
def test_a_wrong_language_or_table_of_common_voice_is_one_sentence(
    options: dict[str, str], table: list[str] | None, message: str, tmp_path: Path
) -> None:
    root = common_voice_release(tmp_path / "data")
    if table:
        write(root / "cv-corpus-17.0-2024-03-15" / "en" / "dev.tsv", table)
    with pytest.raises(UserError, match=message):
        corpus(CommonVoice, root, **options).clips()


def test_a_table_of_common_voice_that_is_missing_is_named(tmp_path: Path) -> None:
    root = common_voice_release(tmp_path / "data")
    (root / "cv-corpus-17.0-2024-03-15" / "en" / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"There is no .*dev\.tsv: put the release of Common Voice into"):
        corpus(CommonVoice, root).clips()


# Those with a language, and talks


def test_mini_librispeech_lies_in_folders_of_the_same_kind(tmp_path: Path) -> None:
    root = librispeech_release(tmp_path / "LibriSpeech")
    options = [f"paths.data={tmp_path}", f"paths.cache={tmp_path / 'cache'}", "data=mini_librispeech"]
    with pytest.raises(
        UserError, match=r"no speakers in .*train-clean-5: put .* from openslr\.org/31, or set"
    ):
        build.corpus(compose_config(options)).clips()
    (root / "train-clean-100").rename(root / "train-clean-5")
    (root / "dev-clean").rename(root / "dev-clean-2")
    found = build.corpus(compose_config([*options, "data.download=true"]))
    found.prepare()  # which has nothing to fetch
    assert Counter(clip.split for clip in found.clips()) == {"train": 4, "test": 4}


def test_multilingual_librispeech_trains_on_all_hours_or_on_the_limited_ones(tmp_path: Path) -> None:
    root = multilingual_librispeech_release(tmp_path / "data")
    first = brief(corpus(MultilingualLibriSpeech, root).clips(), root)[0]
    path = "mls_german/train/audio/7/12/7_12_000000.flac"
    assert first == ("7_12_000000", path, "das ist 0", "train", "7")
    limited = corpus(MultilingualLibriSpeech, root, limited=True).clips()
    assert Counter(clip.split for clip in limited) == {"train": 1, "val": 2, "test": 2}
    (root / "mls_german").rename(root / "mls_german_opus")
    assert len(corpus(MultilingualLibriSpeech, root).clips()) == 6
    write(root / "mls_german_opus" / "dev" / "transcripts.txt", ["8-12\tdas"])
    with pytest.raises(UserError, match="damaged at line 1, which is not `SPEAKER_BOOK_NUMBER TEXT`"):
        corpus(MultilingualLibriSpeech, root).clips()


def test_fleurs_reads_both_texts_and_groups_by_sentence(tmp_path: Path) -> None:
    root = fleurs_release(tmp_path / "fleurs")
    one = corpus(Fleurs, root).clips()[0]
    assert (one.id, one.text, one.split, one.group) == ("train-110", "er sagt ja", "train", "11")
    written = corpus(Fleurs, root, text="written").clips()
    assert {clip.text for clip in written} == {'Er sagt "ja".'}
    with pytest.raises(
        UserError, match=r"no text 'spoken' in FLEURS: set data.text to one of written, normal"
    ):
        corpus(Fleurs, root, text="spoken")
    (root / "data").mkdir()
    (root / "de_de").rename(root / "data" / "de_de")
    assert len(corpus(Fleurs, root).clips()) == 6
    write(root / "data" / "de_de" / "dev.tsv", ["12\ta.wav\tJa"])
    with pytest.raises(UserError, match=r"dev\.tsv is damaged at line 1"):
        corpus(Fleurs, root).clips()


def test_voxpopuli_keeps_its_splits_though_they_share_a_speaker(tmp_path: Path) -> None:
    root = voxpopuli_release(tmp_path / "voxpopuli")
    clips = corpus(VoxPopuli, root).clips()
    groups = {(clip.split, clip.group) for clip in clips}
    assert groups == {("train", "1 (train)"), ("val", "2"), ("test", "1 (test)")}
    assert Counter(clip.text for clip in clips) == {"ja herr": 3, "nein": 3}  # none without a transcript
    for path in root.rglob("*.ogg"):  # as another mirror has it
        (root / "transcribed_data" / "de" / "train" / "part_0").mkdir(parents=True, exist_ok=True)
        path.rename(root / "transcribed_data" / "de" / "train" / "part_0" / path.with_suffix(".wav").name)
    moved = corpus(VoxPopuli, root, text="written").clips()
    assert [clip.id for clip in moved] == [clip.id for clip in clips]
    assert {clip.text for clip in moved} == {"Ja, Herr!", "Nein."}


@pytest.mark.parametrize("kind", [MultilingualLibriSpeech, Fleurs, VoxPopuli], ids=lambda kind: kind.__name__)
def test_a_language_that_is_not_there_names_those_that_are(kind: type[SpeechCorpus], tmp_path: Path) -> None:
    languages: dict[Any, str] = {MultilingualLibriSpeech: "german", **LANGUAGES}
    root, there = RELEASES[kind](tmp_path / "data"), languages[kind]
    with pytest.raises(
        UserError, match=rf"has no 'xx' of {kind.title}: set data\.language to one of {there}\."
    ):
        corpus(kind, root, language="xx").clips()


def test_tedlium3_lists_its_segments(tmp_path: Path) -> None:
    root = tedlium3_release(tmp_path / "TEDLIUM_release-3")
    clips = {clip.id: clip for clip in corpus(TedLium3, root).clips()}
    assert {name: clip.split for name, clip in clips.items()} == {
        "A_2009-0001782": "train",
        "B_2010-0001782": "train",
        "C_2011-0001782": "val",
        "D_2012-0001782": "test",
    }
    one = clips["A_2009-0001782"]
    assert (one.start, one.duration, one.text, one.group) == (17.82, 10.99, "it's <unk> a", "A_2009")
    table = root / "legacy" / "dev" / "stm" / "C_2011.stm"
    for line in ("C_2011 1 C 5.0 4.0 <o> late", "C_2011 1 C"):
        write(table, [line])
        with pytest.raises(
            UserError, match="damaged at line 1, which is not `TALK CHANNEL SPEAKER START END"
        ):
            corpus(TedLium3, root).clips()
    table.unlink()
    with pytest.raises(
        UserError, match=r"There is no .*legacy/dev/stm/TALK\.stm: put the release of TED-LIUM 3"
    ):
        corpus(TedLium3, root).clips()


# The experiments on LibriSpeech, two steps of each

CONFORMER = ("network.width=16", "network.layers=1", "network.feedforward=16")
SMALL_DECODER = ("task.width=16", "task.decoder.hidden=16", "task.decoder.layers=1", "task.search.beam=2")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("bilstm", ("network.hidden=8", "network.layers=1")),
        ("conformer", CONFORMER),
        ("attention", (*CONFORMER, *SMALL_DECODER, "task.text.tokenizer={kind:characters,size:null}")),
        ("transducer", (*CONFORMER, "task.width=16", "task.predictor.hidden=8", "task.max_symbols=1")),
    ],
)
def test_the_experiments_on_100_hours_run_on_a_release_in_this_layout(
    name: str, sizes: tuple[str, ...], tmp_path: Path
) -> None:
    root = librispeech_release(tmp_path / "LibriSpeech")
    for number, path in enumerate(sorted(root.glob("*/*/*/*.flac"))):
        write_wav(path, sine(200 + 20 * number, 1.5 + number / 20, RATE), RATE)
    cfg = compose_config(
        [
            f"experiment=librispeech100_{name}",
            "trainer=cpu",
            "trainer.max_epochs=2",
            "trainer.limit_train_batches=1",
            "logger=none",
            f"paths.data={tmp_path}",
            f"paths.cache={tmp_path / 'cache'}",
            *sizes,
        ]
    )
    results = train(cfg, tmp_path / "run")
    assert results["data"]["clips"] == {"train": 4, "val": 4, "test": 4}
    assert results["scores"]["test/wer"]["n"] == 4 * 3  # words
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reference"] for row in rows} == {
        f"{s}-{c}-000{n}": refusal(s, n).lower() for s, c in ((61, 1240), (1061, 7)) for n in (0, 1)
    }
    assert {row["group"] for row in rows} == {"61", "1061"}
