"""The page of a corpus before training: what is to be mended, what there is, and clips to hear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.audio_file import AudioError
from lightning_audio.data.clip import visible
from lightning_audio.data.decode import decode
from lightning_audio.data.inspect.sound import Sound, alike, fingerprint, measure
from lightning_audio.data.threads import in_threads
from lightning_audio.errors import counted
from lightning_audio.reports.html import answers
from lightning_audio.reports.html.charts import histogram
from lightning_audio.reports.html.clips import Shelf
from lightning_audio.reports.html.page import Section, section, write_sections

MEASURED = 1000  # clips whose sound is measured
NARROW = 0.75  # of half the file's rate: a clip that reaches no higher is narrow
SHOWN = 20  # items of a finding
LIKE, EMBEDDED = 0.85, 0.98  # cosine of near-duplicates, at least: of fingerprints, and by an encoder
WORDS = 20  # most frequent ones that are listed

Row = Mapping[str, Any]
Embed = Callable[[np.ndarray, int], np.ndarray]  # int16 samples (T,) and their rate -> (D,)


def write_corpus_page(
    path: Path,
    report: Row,
    clips: int = 40,
    megabytes: float = 15.0,
    seed: int = 0,
    embed: Embed | None = None,
) -> Path:
    """Writes a page of what `check` found in a corpus.

    Args:
        path: of the page.
        report: as `check` gives it, with a row for every clip.
        clips: that can be heard: the ones that stand out, by level, noise and length, then others.
        megabytes: of the page at most.
        seed: draws the clips of a large corpus that are measured.
        embed: what near-duplicates are found by; by default the `fingerprint` of a clip.
    """
    rows = [row for row in report["clips"] if not row.get("problem")]
    places = np.arange(len(rows))
    if len(rows) > MEASURED:
        places = np.sort(np.random.default_rng(seed).choice(len(rows), MEASURED, replace=False))
    chosen = [rows[place] for place in places.tolist()]
    measured = zip(chosen, in_threads(partial(_measured, embed=embed or fingerprint), chosen), strict=True)
    known = [(row, *found) for row, found in measured if found]
    heard = [(row, sound) for row, sound, _ in known]
    pairs = alike(np.stack([vector for *_, vector in known]), EMBEDDED if embed else LIKE) if known else []
    grave = sum(finding["grave"] for finding in report["findings"])
    remarks = counted(len(report["findings"]) - grave, "remarks")
    return write_sections(
        path,
        f"{report['corpus']} · {report['root']}",
        str(report["root"]),
        f"{grave or 'Nothing'} to mend before training, {remarks}.",
        [
            *_findings(report["findings"]),
            *_counts(report),
            *_groups(rows),
            _sound(heard, len(rows)),
            *_near([row for row, _ in heard], pairs),
            *_texts(rows),
        ],
        cards=_cards(heard, pairs, clips, megabytes),
    )


def _samples(row: Row) -> np.ndarray | None:
    try:
        return decode(row["path"], row["rate"], row["start"], row.get("duration"), channel=row.get("channel"))
    except AudioError:
        return None


def _measured(row: Row, embed: Embed) -> tuple[Sound, np.ndarray] | None:
    samples = _samples(row)
    if samples is None or not len(samples):
        return None
    return measure(samples, row["rate"]), embed(samples, row["rate"])


def _near(rows: Sequence[Row], pairs: Sequence[tuple[int, int, float]]) -> list[Section]:
    """The pairs that are likest; first those on two sides of a split, or labelled otherwise."""
    if not pairs:
        return []

    def across(one: Row, other: Row) -> str:
        sides = {str(row.get("split") or "unused") for row in (one, other)}
        labels = {", ".join(row.get("labels") or ()) for row in (one, other)}
        told = [f"{' and '.join(sorted(sides))}" if len(sides) > 1 else ""]
        return "; ".join(filter(None, [*told, "labels differ" if len(labels) > 1 else ""]))

    table = [
        {
            "alike": answers.linked(f"{cosine:.3f}", pair_tag(rows[a], rows[b])),
            "clip": rows[a]["id"],
            "and": rows[b]["id"],
            "across": across(rows[a], rows[b]),
        }
        for a, b, cosine in pairs
    ]
    table.sort(key=lambda row: not row["across"])
    leaks = sum(" and " in row["across"] for row in table)
    told = (
        f"{counted(len(pairs), 'pairs')} of clips may be cut from one recording, {leaks} of them on two "
        "sides of a split: listen, and give those that are a common group."
    )
    return [section("Near-duplicates", [told], table[:SHOWN])]


def pair_tag(one: Row, other: Row) -> str:
    return f"{one['id']} and {other['id']}"


def _findings(findings: Sequence[Row]) -> list[Section]:
    return [
        section(
            "To mend" if finding["grave"] else "Remark",
            [finding["sentence"]],
            [{"which": item} for item in finding["items"][:SHOWN]],
        )
        for finding in findings
    ]


def _counts(report: Row) -> list[Section]:
    splits = [
        {
            "split": name,
            "clips": str(one["clips"]),
            "hours": f"{one['hours']:.3g}",
            "groups": str(one["groups"]),
        }
        | {f"{key} (s)": f"{value:.2f}" for key, value in one["seconds"].items()}
        for name, one in report["splits"].items()
    ]
    files = [{key: str(value) for key, value in row.items()} for row in report["sources"]]
    labels = [
        {"label": answers.linked(visible(label), label)} | {split: str(count) for split, count in row.items()}
        for label, row in report["labels"].items()
    ]
    found = [section("Splits", (), splits), section("Files", (), files)]
    if labels:
        found.append(section("Clips of each label", (), labels))
    if report["transcripts"]:
        texts = [
            {"split": name} | {key: str(value) for key, value in row.items()}
            for name, row in report["transcripts"].items()
        ]
        found.append(section("Transcripts", (), texts))
    return found


def _groups(rows: Sequence[Row]) -> list[Section]:
    """Speakers, or what else clips have in common, the largest first; nothing where clips stand alone."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("group"):
            groups.setdefault(row["group"], []).append(row)
    if not 1 < len(groups) <= len(rows) / 2:
        return []
    table = [
        {
            "group": answers.linked(visible(name), f"group {name}"),
            "clips": str(len(its)),
            "minutes": f"{sum(row['seconds'] for row in its) / 60:.1f}",
            "splits": ", ".join(sorted({str(row.get("split") or "unused") for row in its})),
        }
        for name, its in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    told = f"{len(groups)} of them, {table[-1]['clips']} to {table[0]['clips']} clips each."
    return [section("Speakers, or what else clips have in common", [told], table[:SHOWN])]


def _sound(heard: Sequence[tuple[Row, Sound]], clips: int) -> Section:
    if not heard:
        return section("Sound", ["No clip can be read."])
    narrow = sum(sound.bandwidth < NARROW * row["rate"] / 2 for row, sound in heard)
    clipped = sum(row["clipped"] > 0 for row, _ in heard)
    told = [
        f"Measured on {len(heard)} of {clips} clips that can be read.",
        f"{narrow} of them reach no higher than {NARROW:.0%} of half their file's rate: audio of a lower "
        "rate, or of a codec, in a file of a higher one.",
        f"{clipped} have samples at full scale (clipping).",
        "The signal-to-noise ratio is that of loud frames over quiet ones of the same clip.",
    ]
    charts = [
        histogram("Duration", [row["seconds"] for row, _ in heard], "seconds"),
        histogram("Level", [sound.level for _, sound in heard], "level in dB of full scale (RMS)"),
        histogram(
            "Signal-to-noise ratio",
            [sound.snr for _, sound in heard],
            "signal-to-noise ratio in dB, estimated",
        ),
        histogram("Bandwidth", [sound.bandwidth / 1000 for _, sound in heard], "bandwidth in kHz"),
        histogram("Silence", [100 * sound.silence for _, sound in heard], "frames below -60 dB in percent"),
    ]
    return section("Sound", told, (), charts)


def _texts(rows: Sequence[Row]) -> list[Section]:
    counts: dict[str, int] = {}
    for row in rows:
        for word in (row.get("text") or "").split():
            counts[word] = counts.get(word, 0) + 1
    if not counts:
        return []
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    once = sum(count == 1 for count in counts.values())
    told = f"{len(counts)} different words as written, {once} of them once."
    return [section("Most frequent words", [told], [{"word": w, "count": str(n)} for w, n in ranked[:WORDS]])]


def _cards(
    heard: Sequence[tuple[Row, Sound]],
    pairs: Sequence[tuple[int, int, float]],
    clips: int,
    megabytes: float,
) -> list[Row]:
    """Those first that stand out: near-duplicates, the quietest, the loudest, the noisiest, the narrowest,
    the shortest, the longest in turn; then all others, as they come."""
    ways: tuple[Callable[[tuple[Row, Sound]], float], ...] = (
        lambda pair: pair[1].level,
        lambda pair: -pair[1].level,
        lambda pair: pair[1].snr,
        lambda pair: pair[1].bandwidth,
        lambda pair: pair[0]["seconds"],
        lambda pair: -pair[0]["seconds"],
    )
    orders = ([way(one) for one in heard] for way in ways)
    rankings = [sorted(range(len(heard)), key=values.__getitem__) for values in orders]
    twins = [clip for *both, _ in pairs for clip in both]
    rankings.insert(0, list(dict.fromkeys([*twins, *range(len(heard))])))
    order = list(dict.fromkeys(n for turn in zip(*rankings, strict=True) for n in turn))
    tags: dict[int, list[str]] = {}
    for a, b, _ in pairs:
        for clip in (a, b):
            tags.setdefault(clip, []).append(pair_tag(heard[a][0], heard[b][0]))

    def sound(split: str, name: str) -> tuple[np.ndarray, int] | None:
        samples = _samples(by_id[name])
        return None if samples is None else (samples, by_id[name]["rate"])

    by_id = {row["id"]: row for row, _ in heard}
    order = order[: answers.LISTED]
    shelf = Shelf.for_clips(sound, [("", heard[n][0]["id"]) for n in order[:clips]], megabytes)
    cards = []
    for place, n in enumerate(order):
        row, found = heard[n]
        cards.append(_card(row, found, tags.get(n, []), shelf if place < clips else None))
    return cards


def _card(row: Row, found: Sound, pairs: Sequence[str], shelf: Shelf | None) -> Row:
    labels = list(row.get("labels") or ())
    told = [
        f"{row['seconds']:.2f} s",
        f"{found.level:.0f} dB",
        f"SNR {found.snr:.0f} dB",
        f"up to {found.bandwidth / 1000:.1f} kHz",
    ]
    return answers.card(
        row["id"],
        row.get("split") or "unused",
        row.get("text") or ", ".join(labels),
        None,
        scores=told,
        group=row.get("group") or "",
        tags=[*labels, *pairs, f"group {row.get('group')}"],
        **(shelf.take("", row["id"]) if shelf else {}),
    )
