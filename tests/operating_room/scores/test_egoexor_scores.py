"""EgoExOR's published evaluator beside ours: every row of the table of egoexor.md, section 10, by hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import bundled, mmor
from operating_room.graphs.scene_graph import Sample, Triplet, parse
from operating_room.scores.egoexor import official_report, score_both, surgery_type
from operating_room.scores.reports import Report
from operating_room.scores.scoring import predicate_report, score, score_sample

DOMAIN = bundled("egoexor")
LANGUAGE = DOMAIN.language
TRUTH = "<SG> head surgeon,patient,cutting; patient,operating table,lyingon </SG>"


def sample(text: str = TRUTH, take: str = "MISS_1_1") -> Sample:
    return Sample(take, "000000", tuple(parse(text)))


def official(answer: str, truth: str = TRUTH) -> Report:
    return official_report(sample(truth), parse(answer), LANGUAGE)


def truth_side(answer: str, truth: str = TRUTH) -> Report:
    return score_sample(sample(truth), parse(answer), LANGUAGE).predicates


def counts(report: Report) -> dict[tuple[str, str], int]:
    """(true, predicted) -> pairs, without those that are none on both sides."""
    names = (*report.names, "?")
    found = {(names[i], names[j]): int(report.confusion[i, j]) for i, j in np.argwhere(report.confusion)}
    return {key: count for key, count in found.items() if key != ("none", "none")}


def test_entities_are_those_of_the_prediction() -> None:
    """Row 1: two entities predicted are two ordered pairs; the truth names three, six pairs."""
    answer = "<SG> head surgeon,patient,cutting; </SG>"
    assert (official(answer).total, truth_side(answer).total) == (2, 6)
    assert official(answer, "<SG> </SG>").total == 0  # no true relation: nothing counts


def test_missed_pairs_of_entities_never_predicted_are_not_counted() -> None:
    """Row 2: the missed relation of the table costs nothing there."""
    answer = "<SG> head surgeon,patient,cutting; </SG>"
    assert counts(official(answer)) == {("cutting", "cutting"): 1}
    assert counts(truth_side(answer)) == {("cutting", "cutting"): 1, ("lyingon", "none"): 1}
    assert official(answer).macro["f1-score"] == 1
    assert truth_side(answer).macro["f1-score"] < 1


def test_predicted_entities_absent_from_the_truth_count_against_none() -> None:
    """Row 3."""
    answer = "<SG> head surgeon,patient,cutting; assistant,scalpel,holding </SG>"
    assert counts(official(answer)) == {("cutting", "cutting"): 1, ("none", "holding"): 1}
    assert counts(truth_side(answer)) == {("cutting", "cutting"): 1, ("lyingon", "none"): 1}


@pytest.mark.parametrize("answer", ["", "nothing of use", "<SG> </SG>"])
def test_an_empty_answer_contributes_nothing(answer: str) -> None:
    """Row 4."""
    assert official(answer).total == 0
    assert counts(truth_side(answer)) == {("cutting", "none"): 1, ("lyingon", "none"): 1}


@pytest.mark.parametrize(
    ("raw", "name"),
    [("checking", "looking"), ("anesthasing", "anaesthetising"), ("closeTo", "closeto"), ("lyingOn", "lyingon")],
)
def test_raw_spellings_are_read(raw: str, name: str) -> None:
    """Rows 6 and 12: synonyms of section 3.3 after lower-casing, in predicates..."""
    report = official(f"<SG> anaesthetist,patient,{raw} </SG>", f"<SG> anesthetist,patient,{name} </SG>")
    assert counts(report) == {(name, name): 1}


def test_raw_entities_are_read() -> None:
    """...and in entities: operation table, microcope, anaesthetist."""
    answer = "<SG> Anaesthetist,operation table,touching; microcope,operating table,touching </SG>"
    truth = "<SG> anesthetist,operating_table,touching; microscope,operating_table,touching </SG>"
    assert counts(official(answer, truth)) == {("touching", "touching"): 2}


@pytest.mark.parametrize(("prompted", "name"), [("close to", "closeto"), ("lying on", "lyingon")])
def test_the_spellings_of_the_prompt_are_dropped(prompted: str, name: str) -> None:
    """Rows 7 and 8; ours counts them."""
    answer, truth = f"<SG> assistant,patient,{prompted} </SG>", f"<SG> assistant,patient,{name} </SG>"
    assert official(answer, truth).total == 0
    assert counts(truth_side(answer, truth)) == {(name, name): 1}


def test_parsing() -> None:
    """Row 9: dots are deleted, text in triple quotes is removed, of several triplets for a pair the first counts."""
    answer = '"""x,y,z""" <SG> head surgeon,patient,cut.ting; head surgeon,patient,holding </SG>'
    assert counts(official(answer)) == {("cutting", "cutting"): 1}


def test_a_predicate_in_the_place_of_an_entity_is_left_out() -> None:
    """Row 10: the published evaluator ends in an error there, which is not mirrored."""
    answer = "<SG> head surgeon,patient,cutting; holding,patient,cutting </SG>"
    assert counts(official(answer)) == {("cutting", "cutting"): 1}


def test_an_entity_in_the_place_of_the_predicate_is_none() -> None:
    """Row 11."""
    answer = "<SG> head surgeon,patient,scalpel; head surgeon,operating table,touching </SG>"
    assert counts(official(answer)) == {
        ("cutting", "none"): 1,
        ("lyingon", "none"): 1,
        ("none", "touching"): 1,
    }


def test_types_and_real_macro() -> None:
    """Section 10: per type (MISS, if that is in the name of the take, else Ultrasound) and over all, pooled."""
    samples = [sample(take="MISS_1_1"), sample(take="Ultrasound_2_2")]
    answers = {samples[0].sample_id: parse(TRUTH), samples[1].sample_id: parse("<SG> patient,scalpel,touching </SG>")}
    both = score_both(samples, answers, score(samples, answers, DOMAIN), DOMAIN)
    assert both is not None
    assert list(both.official) == list(both.truth) == ["MISS", "Ultrasound", "all"]
    written = both.to_json()
    assert written["f1_official"]["MISS"]["macro_f1"] == written["f1_truth"]["MISS"]["macro_f1"] == 1
    # Ultrasound: of two pairs one is falsely `touching`; `none` alone has support: precision 1, recall 1/2.
    assert written["f1_official"]["Ultrasound"]["macro_f1"] == pytest.approx(2 / 3)
    assert written["f1_truth"]["all"]["macro_f1"] == score(samples, answers, DOMAIN).overall.macro_f1
    assert "f1_official and f1_truth differ" in written["definitions"]["differ"]
    assert "f1_official" in str(both)
    assert "Ultrasound" in str(both)
    assert [surgery_type(name) for name in ("MISS_4_2", "Ultrasound_5_58", "own")] == [
        "MISS",
        "Ultrasound",
        "Ultrasound",
    ]


def test_other_domains_have_one_score() -> None:
    own = Sample("001_PKA_MMOR", "000000", (Triplet("nurse", "saw", "holding"),))
    answers = {own.sample_id: list(own.triplets)}
    assert score_both([own], answers, score([own], answers, mmor()), mmor()) is None


TRIPLETS = st.lists(
    st.builds(Triplet, *[st.sampled_from(LANGUAGE.entities[:5])] * 2, st.sampled_from(LANGUAGE.predicates)), max_size=8
)


@given(TRIPLETS, TRIPLETS)
def test_both_are_equal_where_the_same_entities_are_named(true: list[Triplet], predicted: list[Triplet]) -> None:
    """Section 10: the entity set is the only difference (but for the prompt's spellings)."""
    named = {name for triplet in true for name in triplet[:2]}
    if named != {name for triplet in predicted for name in triplet[:2]}:
        missing = [Triplet(a, b, "touching") for a in sorted(named) for b in sorted(named) if a != b]
        predicted = [triplet for triplet in predicted if {*triplet[:2]} <= named] + missing
        if named != {name for triplet in predicted for name in triplet[:2]}:
            return  # one entity alone, related to itself
    one = Sample("MISS_1_1", "000000", tuple(true))
    ours = score_sample(one, predicted, LANGUAGE).predicates
    assert np.array_equal(official_report(one, predicted, LANGUAGE).confusion, ours.confusion)


@given(TRIPLETS, TRIPLETS)
def test_pairs_are_those_of_all_predicted_entities(true: list[Triplet], predicted: list[Triplet]) -> None:
    one = Sample("MISS_1_1", "000000", tuple(true))
    named = {LANGUAGE.entity_index[name] for triplet in predicted for name in triplet[:2]} if true else set()
    expected = predicate_report(true, predicted, sorted(named), LANGUAGE)
    assert np.array_equal(official_report(one, predicted, LANGUAGE).confusion, expected.confusion)
    assert expected.total == len(named) * (len(named) - 1)
