"""Findings in words. A sentence never claims more than the verdict of its finding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablations.config import count, name_level
from ablations.config.safe_text import bold, markdown
from ablations.reporting.findings import (
    BestCellFinding,
    ContrastFinding,
    DivergenceFinding,
    Finding,
    InteractionFinding,
    NoInteractionFinding,
    SummaryFinding,
    more_seeds,
)
from ablations.reporting.formatting import (
    has_spread,
    interval_text,
    listed,
    mean_interval,
    number,
    p_phrase,
    p_text,
    points_text,
    signed_text,
)
from ablations.statistics import (
    ALPHA,
    DIFFERENT,
    MARGIN,
    MOST_SEEDS,
    SEQUENTIAL,
    Contrast,
    Interaction,
    Verdict,
    verdict,
)

OBSERVED = "if the difference and its spread stay as observed"


def sentence(finding: Finding) -> str:
    """Return the finding in one or a few sentences of markdown."""
    match finding:
        case SummaryFinding():
            return " ".join(
                filter(
                    None,
                    (
                        _lead(finding),
                        _too_few(finding.contrast),
                        _against_others(finding),
                        _also_better(finding),
                        _changes(finding),
                    ),
                )
            )
        case ContrastFinding():
            return _contrast(finding.contrast) + _depends(finding.depends_on) + explanation(finding.contrast)
        case InteractionFinding():
            return _interaction(finding.interaction) + explanation(finding.contrast)
        case NoInteractionFinding():
            return _no_interaction(finding)
        case DivergenceFinding():
            return _divergence(finding)
        case BestCellFinding():
            return _best_cell(finding)


def _lead(finding: SummaryFinding) -> str:
    """Return which arm has the best mean, and how it compares with the baseline."""
    c = finding.contrast
    subject, base = bold(c.subject), bold(finding.baseline)
    kind = finding.verdict
    several = len(finding.contrasts) > 1
    if kind is Verdict.NO_PAIRS:
        return f"{subject} cannot be compared with {base}: no pair of runs has finished."
    m = c.measure
    average = _average(c, axes_text(finding.averaged_over) if finding.averaged_over else "the settings")
    amount = f"{_amount(c)}{average}{_interval_in_brackets(c)}"
    difference = f"the difference is {_difference(c)}{average}{_interval_in_brackets(c)}"
    leads = f"has the {m.best} {markdown(m.mean_noun)}"
    if finding.leader == finding.baseline and several:
        closest = f"the closest arm, {subject}, is"
        compared = {
            Verdict.EQUIVALENT: f"The closest arm, {subject}, is equivalent within {MARGIN:g} points: {difference}.",
            Verdict.UNDECIDED: f"Whether it is {_ahead(c)} than {closest} undecided: {difference}.",
        }
        decided = f"The closest arm, {subject}, is {kind} by {amount}."
        return f"The baseline {base} {leads}. {compared.get(kind, decided)}"
    if kind in DIFFERENT:
        if not several:
            return f"{_decision(c, amount)}."
        if m.higher_is_better is None:
            return f"{subject} {leads}, {kind} than that of {base} by {amount}."
        return f"{subject} {leads} and is {kind} than {base} by {amount}."
    if kind is Verdict.EQUIVALENT:
        but = f"{subject} {leads}, but it" if several else subject
        return f"{but} is equivalent to {base} within {MARGIN:g} points{_in_noun(c) * (not several)}: {difference}."
    if several:
        return f"{subject} {leads}, but whether it is {_ahead(c)} than {base} is undecided: {difference}."
    return f"Whether {subject} differs from {base}{_in_noun(c)} is undecided: {difference}."


def _ahead(c: Contrast) -> str:
    return "higher" if c.measure.higher_is_better is None else "better"


def _in_noun(c: Contrast) -> str:
    return "" if c.measure.is_accuracy else f" in {markdown(c.measure.noun)}"


def _amount(c: Contrast) -> str:
    text = points_text if c.measure.is_share else signed_text
    return markdown(c.measure.amount(text(abs(c.mean), c.measure.decimals).removeprefix("+")))


def _difference(c: Contrast, mean: float | None = None) -> str:
    text = points_text if c.measure.is_share else signed_text
    return markdown(c.measure.amount(text(c.mean if mean is None else mean, c.measure.decimals)))


def _decision(c: Contrast, amount: str) -> str:
    """Return that two arms differ, by `amount`, without a full stop."""
    a, b, noun = bold(c.subject), bold(c.reference), markdown(c.measure.noun)
    way = "higher" if c.mean > 0 else "lower"
    if c.measure.is_accuracy:
        return f"{a} is {verdict(c)} than {b} by {amount}"
    if c.measure.higher_is_better is None:
        return f"{a} has a {way} {noun} than {b}, by {amount}"
    return f"{a} is {verdict(c)} than {b}: its {noun} is {way} by {amount}"


def _too_few(c: Contrast) -> str:
    """Return that the pairs of an undecided contrast could not have shown any difference, if that is so."""
    if verdict(c) is not Verdict.UNDECIDED or not _cannot_reject(c):
        return ""
    return f"With {count(c.n, 'pair')} no difference can be shown."


def _cannot_reject(c: Contrast) -> bool:
    return c.p_smallest >= 1 if c.sequential else c.p_adjusted_smallest > ALPHA


def _also_better(finding: SummaryFinding) -> str:
    """Return the arms that are better than the baseline, if the arm with the best mean is not shown to be."""
    ahead = (Verdict.BETTER, Verdict.HIGHER)
    better = [bold(c.subject) for c in finding.contrasts if verdict(c) in ahead]
    if not better or finding.verdict in ahead:
        return ""
    verb = "is" if len(better) == 1 else "are"
    return f"{listed(better)} {verb} {_ahead(finding.contrast)} than {bold(finding.baseline)}."


def _against_others(finding: SummaryFinding) -> str:
    """Return how the arm with the best mean compares with the arms that are not the baseline."""
    groups: dict[Verdict, list[str]] = {}
    for c in finding.others:
        ahead, found = c.subject == finding.leader, verdict(c)
        other = c.reference if ahead else c.subject
        if not ahead:
            found = {Verdict.BETTER: Verdict.WORSE, Verdict.HIGHER: Verdict.LOWER}.get(found, found)
        groups.setdefault(found, []).append(bold(other))
    also = {kind: "also " if finding.verdict is kind else "" for kind in Verdict}
    forms = {
        Verdict.BETTER: f"it is {also[Verdict.BETTER]}better than {{}}",
        Verdict.HIGHER: f"it is {also[Verdict.HIGHER]}higher than {{}}",
        Verdict.EQUIVALENT: f"it is equivalent to {{}} within {MARGIN:g} points",
        Verdict.UNDECIDED: f"whether it is {_ahead(finding.contrast)} than {{}} is {also[Verdict.UNDECIDED]}undecided",
        Verdict.WORSE: "it is worse than {} where both finished",
        Verdict.LOWER: "it is lower than {} where both finished",
        Verdict.NO_PAIRS: "it cannot be compared with {}",
    }
    names = {}
    for kind, group in groups.items():
        undecided = kind is Verdict.UNDECIDED
        if len(group) == len(finding.others) > 3:
            names[kind] = "any other arm" if undecided else "every other arm"
        else:
            names[kind] = listed(group, "or" if undecided else "and")
    text = "; ".join(form.format(names[kind]) for kind, form in forms.items() if kind in names)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _changes(finding: SummaryFinding) -> str:
    """Return the axes that the difference depends on, and its size at two levels of the first of them."""
    if not finding.changes:
        return ""
    first = finding.changes[0]
    axes = axes_text([i.axis for i in finding.changes])
    subject, base = bold(finding.contrast.subject), bold(finding.baseline)
    return f"The difference between {subject} and {base} depends on {axes}: it is {_two_levels(first)}."


def _contrast(c: Contrast) -> str:
    a, b = bold(c.subject), bold(c.reference)
    match verdict(c):
        case kind if kind in DIFFERENT:
            return f"{_decision(c, _amount(c))}{_average(c)} ({_evidence(c)})."
        case Verdict.EQUIVALENT:
            test = f"equivalence {p_phrase(c.p_equivalence)}"
            return (
                f"{a} and {b} are equivalent within {MARGIN:g} points{_in_noun(c)}{_average(c)}: the difference "
                f"is {_difference(c)} ({_interval(c)}{test}; {_blocks(c)})."
            )
        case Verdict.NO_PAIRS:
            return f"{a} cannot be compared with {b}: no pair of runs has finished."
        case _:
            return (
                f"Whether {a} differs from {b}{_in_noun(c)} is undecided: the difference is {_difference(c)} "
                f"({_evidence(c)})."
            )


def _interaction(i: Interaction) -> str:
    c = i.change
    return (
        f"The difference between {bold(c.subject)} and {bold(c.reference)} depends on {_word(i.axis)}: it is "
        f"{_two_levels(i)}, a change of {_difference(c)} ({_evidence(c, 'block', wins=False)})."
    )


def _no_interaction(finding: NoInteractionFinding) -> str:
    axis = _word(finding.axis)
    question = f"Whether the differences between {_plural(finding.arm_axis)} depend on {axis}"
    clearest = finding.contrast
    if clearest is None:
        return f"{question} cannot be tested: no seed has pairs at two levels."
    blocks = _blocks(clearest, "block")
    if clearest.sequential and clearest.p_smallest >= 1:
        return f"{question} cannot be decided yet with {blocks}."
    more = more_seeds(clearest)
    needs = ""
    if more is not None:
        needs = f" {_needed(more)} to show this change in a single test, if the change and its spread stay as observed."
    if clearest.p_adjusted_smallest > ALPHA:
        return (
            f"{question} cannot be decided with {blocks}: the smallest possible p is "
            f"{p_text(clearest.p_adjusted_smallest)}.{needs}"
        )
    return (
        f"{question} is undecided: of {count(len(finding.tested), 'tested change')}, that of "
        f"{bold(clearest.subject)} has the smallest p: {_difference(clearest)} ({clearest.correction} "
        f"{p_phrase(clearest.p_adjusted)}; {blocks}).{needs}"
    )


def _divergence(finding: DivergenceFinding) -> str:
    d, base = finding.divergence, finding.baseline
    share = f"{d.share:.1f} %; exact 95 % interval {mean_interval(d.low, d.high)} %"
    start = f"{bold(d.arm)} diverged in {d.diverged} of {count(d.runs, 'run')} ({share})"
    if finding.contrast is None or not d.pairs:
        return f"{start}."
    test = f"McNemar's exact test over {count(d.pairs, 'pair')}: Holm {p_phrase(d.p_adjusted)}"
    against = f"{bold(base.arm)} in {base.diverged} of {base.runs}"
    if finding.verdict == Verdict.UNDECIDED:
        compared = f"{start}, {against}; whether this differs is undecided ({test})."
    else:
        compared = f"{start}, {finding.verdict} than {against} ({test})."
    if not finding.contrast.n:
        return f"{compared} Without diverged runs no pair is left."
    without = _contrast(finding.contrast)
    return f"{compared} Without diverged runs: {without.replace('Whether', 'whether', 1)}"


def _best_cell(finding: BestCellFinding) -> str:
    m = finding.measure
    noun, mean = markdown(m.mean_noun), markdown(m.level(number(finding.mean, m.decimals)))
    found = mean_interval(finding.low, finding.high, m.decimals)
    interval = f"; 95 % interval {found}" if " to " in found else f", {found}" if found else ""
    evidence = f"{count(finding.n, 'run')}{interval}"
    if finding.means == 1:
        return f"The {noun} of {bold(finding.name)} is {mean} ({evidence})."
    return (
        f"The {m.best} {noun} is {mean}, by {bold(finding.name)} ({evidence}). This value is biased "
        f"{'downward because it is the minimum' if m.sign < 0 else 'upward because it is the maximum'} of "
        f"{finding.means} means."
    )


def explanation(c: Contrast) -> str:
    """Return why interval and verdict seem to disagree, and what would decide an undecided contrast."""
    return disagreement(c) + (_power(c) if verdict(c) is Verdict.UNDECIDED else "")


def disagreement(c: Contrast) -> str:
    """Return why interval and verdict of a contrast seem to disagree; empty if they do not."""
    match verdict(c):
        case kind if kind in DIFFERENT:
            if c.low <= 0 <= c.high:
                return " The interval includes zero because it is conservative with few seeds; the verdict follows p."
            return ""
        case Verdict.UNDECIDED:
            return f"{_interval_excludes_zero(c)}{_interval_within_margin(c)}"
        case _:
            return ""


def _interval_excludes_zero(c: Contrast) -> str:
    if not (c.low > 0 or c.high < 0) or c.p_adjusted_smallest > ALPHA:
        return ""
    if c.p <= ALPHA:
        return f" The interval excludes zero, but p adjusted for several comparisons is above {ALPHA:g}."
    return " The interval excludes zero, but the verdict follows p, which makes fewer assumptions about the noise."


def _interval_within_margin(c: Contrast) -> str:
    if not (c.measure.is_share and c.low >= -MARGIN and c.high <= MARGIN) or not has_spread(c.low, c.high):
        return ""
    start = f" The interval lies within {MARGIN:g} points of zero, but"
    if c.sequential:
        return f"{start} the equivalence test, which accounts for all interim analyses, does not pass."
    return f"{start} the equivalence test does not pass after correction for several comparisons."


def _power(c: Contrast) -> str:
    """Return whether the pairs could have shown any difference, and how many seeds would decide this one."""
    floor = ""
    if c.sequential and _cannot_reject(c):
        floor = f" With {count(c.n, 'pair')} no difference can be shown yet."
    elif _cannot_reject(c):
        floor = f" With {count(c.n, 'pair')} the smallest possible p is {p_text(c.p_smallest)}"
        if c.p_adjusted_smallest > c.p_smallest:
            floor += f" ({p_text(c.p_adjusted_smallest)} after {c.correction.removeprefix(SEQUENTIAL)})"
        floor += ", so no difference can be shown."
    if c.seeds < 2:
        return f"{floor} One seed per setting does not show the spread between seeds; run at least 2 more."
    if not has_spread(c.low, c.high):
        return f"{floor} Without spread between seeds, the number of seeds needed cannot be estimated."
    if c.sequential:
        needed = f"about {count(c.seeds_needed, 'seed')}" if c.seeds_needed else f"over {MOST_SEEDS:,} seeds"
        return f"{floor} A study of fixed size would need {needed} per setting, {OBSERVED}."
    more = more_seeds(c)
    if more is None:
        return f"{floor} A difference this small needs over {MOST_SEEDS:,} seeds per setting."
    return f"{floor} {_needed(more)} to decide this, {OBSERVED}."


def _needed(more: int) -> str:
    return f"About {count(more, 'more seed')} per setting {'is' if more == 1 else 'are'} needed"


def _depends(axes: Sequence[str]) -> str:
    return f" The difference depends on {axes_text(axes)}." if axes else ""


def _two_levels(i: Interaction) -> str:
    before, after = (markdown(name_level(i.axis, level)) for level in (i.from_level, i.level))
    return f"{_difference(i.change, i.from_lead)} at {before} and {_difference(i.change, i.lead)} at {after}"


def _average(c: Contrast, settings: str = "the settings") -> str:
    """Return over what the difference is a mean; settings without a pair are not hidden behind the name of all."""
    if c.cells < c.cells_planned:
        part = f"{c.cells} of {c.cells_planned} settings"
        return f" on average over {part}" if c.cells > 1 else f" in {part}"
    return f" on average over {settings}" if c.cells > 1 else ""


def _interval_in_brackets(c: Contrast) -> str:
    return f" ({_interval(c).removesuffix('; ')})" if _interval(c) else ""


def _interval(c: Contrast) -> str:
    """Return the 95 % interval, or why there is no use in it; empty without an interval."""
    if not np.isfinite(c.low):
        return ""
    if c.measure.is_share and c.low <= -100 and c.high >= 100:  # all that is possible
        return f"the 95 % interval from {count(c.seeds, 'seed')} is uninformative; "
    return (
        f"95 % interval {interval_text(c.low, c.high, c.measure.decimals)}; "
        if has_spread(c.low, c.high)
        else "no spread between seeds; "
    )


def _evidence(c: Contrast, noun: str = "pair", *, wins: bool = True) -> str:
    word = "higher" if c.measure.higher_is_better is None else "ahead"
    ahead = f", {word} in {c.wins}" if wins and c.n > 1 else ""
    return f"{_interval(c)}{c.correction} {p_phrase(c.p_adjusted)}; {_blocks(c, noun)}{ahead}"


def _blocks(c: Contrast, noun: str = "pair") -> str:
    """Return the number of blocks, and of the settings that have any where some have none."""
    part = f" over {c.cells} of {c.cells_planned} settings" if c.cells < c.cells_planned else ""
    return f"{count(c.n, noun)}{part}"


def axes_text(axes: Sequence[str]) -> str:
    """Return the different names of axes as `depth and learning rate`."""
    return listed(list(dict.fromkeys(map(_word, axes))))


def _word(axis: str) -> str:
    return {"patch": "patch size"}.get(axis, axis.replace("_", " "))


def _plural(axis: str) -> str:
    return f"{_word(axis)}s"
