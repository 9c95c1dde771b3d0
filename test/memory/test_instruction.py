"""Instructions taken apart: by rules against the generator that knows, by the model's answer or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.memory.instruction import (
    InstructionAgent,
    LandmarkRegistry,
    PlanFallback,
    PlanSource,
    Said,
    make_plan,
    parse_plan,
    plan_by_rules,
    plan_question,
    split_stages,
)
from vln_ros.sim.embedded.flat import generate_flat, scene_id
from vln_ros.sim.episodes.instructions import Clause, ClauseKind, Side, tell


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2), st.integers(0, 2**31), st.data())
def test_rules_find_the_stages_and_landmarks_that_the_generator_put_in(
    seed: int, draw: int, data: st.DataObject
) -> None:
    """Whatever clauses are told in whatever words: as many stages, and the very things that they name."""
    flat = generate_flat(scene_id(seed))
    items = sorted(flat.referents)
    clauses = []
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from([ClauseKind.TURN, ClauseKind.PASS, ClauseKind.LEAVE]))
        side = data.draw(st.sampled_from([Side.LEFT, Side.RIGHT]))
        room = data.draw(st.integers(0, len(flat.rooms) - 1))
        clauses.append(Clause(kind, 0.0, room, side, data.draw(st.sampled_from(items))))
    clauses.append(Clause(ClauseKind.STOP, 0.0, 0, None, data.draw(st.sampled_from(items))))
    text = tell(flat, tuple(clauses), np.random.default_rng(draw))
    stages = plan_by_rules(text)
    assert len(stages) == len(clauses), text
    for (stage, names), clause in zip(stages, clauses, strict=True):
        assert clause.room is not None and clause.item is not None
        expected = {
            ClauseKind.TURN: (),
            ClauseKind.LEAVE: (flat.rooms[clause.room].name,),
            ClauseKind.PASS: (flat.referents[clause.item],),
            ClauseKind.STOP: (flat.referents[clause.item],),
        }[clause.kind]
        assert names == expected, (text, stage)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Exit the bathroom and walk past the bed. Turn left, go down the hallway; wait by the stairs on "
            "your right.",
            [("Exit the bathroom", "bathroom"), ("walk past the bed", "bed"), ("Turn left",),
             ("go down the hallway", "hallway"), ("wait by the stairs on your right", "stairs")],
        ),
        (
            "Walk between the sofa and the coffee table to the kitchen island",
            [("Walk between the sofa and the coffee table to the kitchen island", "sofa", "coffee table",
              "kitchen island")],
        ),
        ("go through kitchen and then stop at the end of the hall",
         [("go through kitchen", "kitchen"), ("stop at the end of the hall", "hall")]),
        ("go to the other room on the left side", [("go to the other room on the left side",)]),
        ("stop", [("stop",)]),
        ("", [("",)]),
        ("?!", [("?!",)]),
    ],
)  # fmt: skip
def test_rules_on_instructions_of_people(
    text: str,
    expected: list[tuple[str, ...] | tuple[str, str]] | list[tuple[str, ...]] | list[tuple[str, str]],
) -> None:
    assert [(stage, *names) for stage, names in plan_by_rules(text)] == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_no_text_upsets_the_rules(text: str) -> None:
    stages = split_stages(text)
    assert stages
    agent = InstructionAgent(None)
    plan = agent.read(text)
    assert plan.source is PlanSource.RULES
    ends = [0]
    for _, start, end in plan.mentions():
        assert ends[-1] <= start < end <= len(text)
        ends.append(end)


TOLD = "Leave the bedroom, turn left and stop at the red chair."
GOOD = "1. leave the bedroom | the bedroom\n- turn left |\n\nstop at red chair | red chair; red chair"


def test_an_answer_in_the_format_is_taken() -> None:
    draft = parse_plan(GOOD, TOLD, ended=True)
    assert draft == (
        ("leave the bedroom", ("bedroom",)),
        ("turn left", ()),
        ("stop at red chair", ("red chair",)),
    )


@pytest.mark.parametrize(
    ("answer", "ended", "refusal"),
    [
        ("", True, PlanFallback.EMPTY),
        (" \n ", False, PlanFallback.EMPTY),
        (GOOD, False, PlanFallback.CUT_OFF),
        ("leave the bedroom", True, PlanFallback.FORMAT),
        ("| bedroom", True, PlanFallback.FORMAT),
        ("turn left |\n" * 12, True, PlanFallback.TOO_MANY),
        ("leave the kitchen |", True, PlanFallback.INVENTED_STAGE),
        ("leave the bedroom | green chair", True, PlanFallback.INVENTED_LANDMARK),
        ("leave the bedroom | the", True, PlanFallback.INVENTED_LANDMARK),
        ("leave the bedroom | chair red", True, PlanFallback.INVENTED_LANDMARK),
    ],
)
def test_an_answer_that_does_not_hold_is_refused_and_rules_step_in(
    answer: str, ended: bool, fallback_reason: PlanFallback
) -> None:
    assert parse_plan(answer, TOLD, ended=ended) is fallback_reason
    agent = InstructionAgent(lambda question: Said(answer, ended))
    plan = agent.read(TOLD)
    assert (plan.source, plan.fallback_reason) == (PlanSource.RULES, fallback_reason)
    assert [landmark.name for landmark in plan.landmarks] == ["bedroom", "red chair"]
    assert agent.refused == {fallback_reason: 1}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=" |;\n.-1abcdeLtheurnlf", max_size=60), st.text(max_size=40))
def test_no_answer_upsets_the_parser(answer: str, told: str) -> None:
    for instruction in (TOLD, told):
        draft = parse_plan(answer, instruction, ended=True)
        if not isinstance(draft, PlanFallback):
            make_plan(instruction, draft, LandmarkRegistry(), PlanSource.MODEL)


def test_the_model_is_asked_about_this_instruction() -> None:
    asked = []

    def answer(question: str) -> Said:
        asked.append(question)
        return Said(GOOD, True)

    agent = InstructionAgent(answer)
    plan = agent.read(TOLD)
    assert asked == [plan_question(TOLD)] and asked[0].endswith(TOLD)
    assert plan.source is PlanSource.MODEL and plan.fallback_reason is None
    assert plan.stages[2].landmarks == (plan.landmarks[1].number,)


def test_a_landmark_keeps_its_identity_over_instructions() -> None:
    agent = InstructionAgent(None)
    first = agent.read("pass the red chair and stop at the lamp")
    second = agent.read("go to the sofa, pass your lamp and stop at the Red  chair")
    assert {m.name: m.number for m in first.landmarks} == {"red chair": 0, "lamp": 1}
    assert {m.name: m.number for m in second.landmarks} == {"sofa": 2, "lamp": 1, "red chair": 0}
    assert second.stages[-1].landmarks == (0,)


def test_mentions_are_places_in_the_text() -> None:
    text = "Pass the Chair, the red chair and the armchair, then stop at the red\tchair"
    draft = (("pass", ("chair", "red chair", "armchair")),)
    plan = make_plan(text, draft, LandmarkRegistry(), PlanSource.RULES)
    assert [(m.name, text[a:b]) for m, a, b in plan.mentions()] == [
        ("chair", "Chair"),
        ("red chair", "red chair"),
        ("armchair", "armchair"),
        ("red chair", "red\tchair"),
    ]
