"""What a study's analysis says, as rows of tables and lines of text for its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.predictors import BASELINES

_LONG = 110  # characters of a cell of a table


def cell(value: Any, names: Mapping[str, str]) -> str:
    """One cell of a table: no line break, no bar, not too long, and runs by their `names` by group and size."""
    text = str(value)
    for key in sorted(names, key=len, reverse=True):
        group, _, total = key.rpartition(" n")
        text = text.replace(f"{group} at {total}", names[key]) if " " in group else text
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def amended(state: Mapping[str, Any]) -> str:
    """Whether the claims were changed."""
    times = state.get("amendments", 0)
    return "never amended" if not times else f"amended {times} times since the first run (`claims.json`)"


def notes(state: Mapping[str, Any]) -> Iterator[str]:
    """Runs that failed, are flagged or are missing."""
    for name, why in state["failed"].items():
        yield f"`{name}` failed: {why}"
    if state["flagged"]:
        said = ", ".join(f"`{name}` ({', '.join(flags)})" for name, flags in state["flagged"].items())
        yield f"Flagged runs, kept: {said}."
    if state["missing"]:
        yield f"Missing runs: {len(state['missing'])}, the first is `{state['missing'][0]}`."


def short(analysis: Mapping[str, Any]) -> Iterator[str]:
    """A line a shift: who leads, and who brings an ensemble most."""
    for shift, found in analysis["ranking"].get("with same family", {}).get("rankings", {}).items():
        if isinstance(found, str):
            yield f"{shift}: no source can be called best ({found})"
            continue
        first, *others = found["accuracy"]
        clear = all(found["ahead"][f"{first} > {other}"]["low"] > 0 for other in others)
        how = (
            "clearly above each other source"
            if clear
            else f"not clearly, first in {found['chosen'][first]:.0%} of draws"
        )
        said = f"{shift}: the highest line at {_percent(found['x'])} on the reference is that of {first}, {how}"
        credit = analysis["credit"][shift]
        if isinstance(credit, dict) and isinstance(credit["probit"], dict):
            most = credit["probit"]["sources"][0]
            said += (
                f"; most of an ensemble's accuracy there is credited to {most['source']}, {_said(most['shapley'])}"
            )
        yield said + "."
    for verdict in ("shown", "not shown"):
        if ids := [name for name, one in analysis["claims"].items() if one["verdict"] == verdict]:
            yield f"Of the claims {', '.join(ids)} {'are' if len(ids) > 1 else 'is'} {verdict} by these runs."
    for name, found in analysis["proposals"].items():
        if isinstance(found, dict) and "gains" in found:
            said = ", ".join(f"{gain['verdict']} over {rival}" for rival, gain in found["gains"].items())
            yield f"The mixture `{name}`, proposed for {found['target']}, was measured: {said}."


def dominance(analysis: Mapping[str, Any]) -> str:
    """Whether one source is best everywhere, in words."""
    said = []
    for name, answer in analysis["ranking"].items():
        found = answer["dominance"]
        if isinstance(found, str):
            said.append(f"{name}: {found}")
        elif found["verdict"] == "holds":
            said.append(f"{name}: **{found['source']} is best on every shift**")
        elif found["verdict"] == "fails":
            said.append(f"{name}: **no source is best on every shift**: each is clearly below another somewhere")
        else:
            best = f"; if any, it is {found['source']}" if found["source"] else ""
            said.append(f"{name}: these runs cannot say whether a source is best on every shift{best}")
    return ". ".join(one[:1].upper() + one[1:] for one in said) + ("." if said else "")


def ranking(analysis: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Sources by shift, best first, with and without cells of one family."""
    rows: dict[str, dict[str, str]] = {}
    for name, answer in analysis["ranking"].items():
        for shift, found in answer["rankings"].items():
            row = rows.setdefault(shift, {"at": "", "with": "", "without": ""})
            key = name.split()[0]
            if isinstance(found, str):
                row[key] = found
                continue
            row["at"] = row["at"] or _percent(found["x"])
            row[key] = " > ".join(f"{source} {_percent(one['value'])}" for source, one in found["accuracy"].items())
    return rows


def lines(analysis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each source's line on each shift, or why there is none."""
    for shift, part in analysis["shifts"].items():
        for source, line in part.get("lines", {}).items():
            family = " (same family)" if source in part["same_family"] else ""
            if isinstance(line, str):
                yield {"shift": shift, "source": source + family, "slope": line, "intercept": "", "r2": ""}
            else:
                yield {
                    "shift": shift,
                    "source": source + family,
                    "slope": f"{line['slope']:.2f} ({_ends(line['slope_interval'])})",
                    "intercept": f"{line['intercept']:+.2f} ({_ends(line['intercept_interval'])})",
                    "r2": f"{line['r2']:.2f}",
                }


def floor(analysis: Mapping[str, Any], runs: int) -> str:
    """How many runs are at floor on each shift."""
    low = {shift: len(part["at_floor"]) for shift, part in analysis["shifts"].items() if "at_floor" in part}
    said = ", ".join(f"{count} on {shift}" for shift, count in low.items())
    return f"Of {runs} runs these are at floor, in no line and no figure above: {said}." if said else ""


def refused(analysis: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """Which mixtures and ensembles have no figures on a shift, by the kind of reason."""
    for shift, part in analysis["shifts"].items():
        kinds: dict[str, list[str]] = {}
        for key, found in part.get("mixtures", {}).items():
            if isinstance(found, str):
                kinds.setdefault(found.split(":")[0], []).append(names.get(key, key))
        for kind, which in kinds.items():
            yield f"{shift}, {kind}: {', '.join(which)}."


def mixture_rows(analysis: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Each mixture and ensemble that has figures, on each shift; `names` by group and size."""
    for shift, part in analysis["shifts"].items():
        for key, found in part.get("mixtures", {}).items():
            if isinstance(found, str):
                continue
            yield {
                "shift": shift,
                "name": names.get(key, key),
                "x": _percent(found["x"]["value"]),
                "y": _percent(found["y"]["value"]),
                "dilution": f"{_said(found['dilution'])} against {found['best']}",
                "position": _said(found["position"]),
                "excess": _said(found["excess"]),
            }


def rows(analysis: Mapping[str, Any], what: str, names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What was estimated on each shift, by name."""
    for shift, part in analysis["shifts"].items():
        for key, found in part.get(what, {}).items():
            yield {"shift": shift, "name": names.get(key, key), "value": _said(found)}


def filter_rows(analysis: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Each filtered run on each shift: above its source's line, and less a random choice."""
    for row in rows(analysis, "filters", names):
        less = analysis["shifts"][row["shift"]]["filters_less_random"].get(row["name"], "")
        yield {**row, "less": _said(less)}


def chosen(analysis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What each scorer kept."""
    for run, found in analysis["chosen"].items():
        yield {"run": run, **found}


def choices(state: Mapping[str, Any]) -> Iterator[str]:
    """Which scorer was chosen as the best."""
    for source, best in state["choices"].get("best", {}).items():
        higher = "stands higher than" if best["is_higher"] else "comes next to, and not above,"
        yield f"The best scorer for {source} is of {best['source']}, which {higher} it on the fitting half."


def credit_rows(analysis: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Each source's credit on each shift, by both values."""
    for shift, by_value in analysis["credit"].items():
        if isinstance(by_value, str):
            yield {"shift": shift, "value": "", "source": "", "shapley": by_value, "ensemble": "", "measured": ""}
            continue
        for value, found in by_value.items():
            row = {"shift": shift, "value": "probit" if value == "probit" else "effective, points"}
            if isinstance(found, str):
                yield {**row, "source": "", "shapley": found, "ensemble": "", "measured": ""}
                continue
            for one in found["sources"]:
                yield {
                    **row,
                    "source": one["source"],
                    **{name: _said(one[name]) for name in ("shapley", "ensemble", "measured")},
                }


def agreement(analysis: Mapping[str, Any]) -> Iterator[str]:
    """How ensembles without a source agree with training without it."""
    for shift, by_value in analysis["credit"].items():
        if isinstance(by_value, str):
            continue
        for value, found in by_value.items():
            if isinstance(found, dict) and found["measured_at"] is not None:
                said = found["agreement"]
                rank = f"rank correlation {said:+.2f}" if isinstance(said, float) else said
                yield f"{shift}, {value}: ensembles without a source against training without it: {rank}"


def predictors(analysis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each predictor's error on each shift, and less the baselines'."""
    for shift, found in analysis["prediction"].items():
        if isinstance(found, str):
            yield {"shift": shift, "mixtures": "", "name": "", "error": found, "even": "", "single": ""}
            continue
        for name, error in found["error"].items():
            less = [_said(found["less"].get(f"{name} less {base}", "")) for base in BASELINES]
            yield {
                "shift": shift, "mixtures": found["mixtures"], "name": name, "error": _said(error), "even": less[0],
                "single": less[1],
            }  # fmt: skip


def proposals(analysis: Mapping[str, Any]) -> Iterator[str]:
    """What was proposed, predicted and measured."""
    for name, found in analysis["proposals"].items():
        if isinstance(found, str):
            yield f"`{name}`: {found}"
            continue
        shares = ", ".join(f"{source} {100 * share:.0f} %" for source, share in found["shares"].items())
        known = found.get("known_before", False)
        when = "with runs of these shares among those it knew" if known else "stored before it was trained"
        yield (
            f"`{name}`, for {found['target']}: {shares}, by the {found['predictor']}; prediction sha256 "
            f"`{found['sha256']}`, {when}."
        )
        if "measured" in found:
            yield f"`{name}`: {found['measured']}"
            continue
        for where, one in found["outcome"].items():
            held = "within the errors of both" if one["held"] else "beyond the errors of both"
            said, measured = (_percents(one[key]) for key in ("predicted", "measured"))
            seeds = f"with {found['seeds']} seeds"
            yield f"`{name}` on the {where}: predicted {said}, measured {measured} {seeds}, {held}."
        for rival, gain in found["gains"].items():
            less = f"{_said(gain['points'])} points"
            yield f"`{name}` less {rival}, {gain['seeds']} seeds: {less}: **{gain['verdict']}**."


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _percents(one: Mapping[str, float]) -> str:
    return f"{100 * one['value']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def _ends(pair: list[float]) -> str:
    return f"{pair[0]:.2f} to {pair[1]:.2f}"


def _said(one: Any) -> str:
    """An estimate of the analysis, or why there is none."""
    return one if isinstance(one, str) else f"{one['value']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
