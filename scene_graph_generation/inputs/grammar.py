"""Which tokens may come next so that an answer is a scene graph of the domain, whatever pieces the tokenizer has.

Valid is what training targets are (data specification, section 4.2), with or without a blank before it and a semicolon
behind the last triplet: `<SG> head surgeon,patient,drilling; nurse,patient,closeTo </SG>`, of any triplets, or
`<SG> </SG>`. An automaton over bytes knows all such texts, and a token may come where its bytes may. So every spelling
of a valid text is allowed, not one of them: what a free model answers validly it answers so here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import END, START, spoken
from scene_graph_generation.inputs.tokens import Tokens

_CLOSING = f" {END}".encode()


class Grammar:
    """The scene graphs of a language in the tokens of a model. A state is a number; `begin` is the first.

    Raises:
        UserError: the tokenizer cannot spell every name of the domain byte for byte.
    """

    begin, _end = 0, 1

    def __init__(self, tokens: Tokens, language: Language) -> None:
        self._next: list[dict[int, int]] = [{}, {}]  # of each state: byte -> state
        self._closing: dict[int, bytes] = {}  # states between triplets -> the shortest end
        self._build(language)
        self._texts = tokens.pieces()
        # A model's settings may name others, which its tokenizer has not.
        self._end_ids = [token for token in tokens.end_ids if 0 <= token < len(self._texts)]
        self._tree = _Node()
        for token, text in enumerate(self._texts):
            if text:
                self._tree.add(text, token)
        spelled = {byte for moves in self._next for byte in moves}
        alone = {byte: self._tree.at(byte) for byte in spelled}
        if unknown := sorted(byte for byte, node in alone.items() if node is None or not node.tokens):
            raise UserError(
                f"--valid: the model's tokenizer has no token for {bytes(unknown)!r} alone, which names of the domain "
                "are spelled with; leave out --valid"
            )
        self._allowed: dict[int, Bool[np.ndarray, " vocabulary"]] = {}
        self._on_device: dict[tuple[int, torch.device], Tensor] = {}

    def allowed(self, state: int) -> Bool[np.ndarray, " vocabulary"]:
        """The tokens that may come next; of a whole graph those that end an answer."""
        if state not in self._allowed:
            allowed = np.zeros(len(self._texts), dtype=bool)
            allowed[list(self._end_ids) if state == self._end else list(self._reachable(self._tree, state))] = True
            self._allowed[state] = allowed
        return self._allowed[state]

    def allowed_on(self, state: int, device: torch.device, vocabulary: int) -> Bool[Tensor, " vocabulary"]:
        """As `allowed`, for the scores of a model, which may have more of them than there are tokens."""
        place = state, device
        if place not in self._on_device:
            allowed = torch.zeros(vocabulary, dtype=torch.bool)
            allowed[: len(self._texts)] = torch.from_numpy(self.allowed(state))[:vocabulary]
            self._on_device[place] = allowed.to(device)
        return self._on_device[place]

    def after(self, state: int, token: int) -> int | None:
        """The state behind a token; None if it may not come, or ends the answer."""
        if not 0 <= token < len(self._texts) or not self._texts[token]:
            return None
        return self._walk(state, self._texts[token])

    def forced(self, state: int, count: int) -> list[int]:
        """At most `count` tokens of what must follow, the longest ones first; none where there is a choice."""
        text = bytearray()
        while len(self._next[state]) == 1:
            ((byte, state),) = self._next[state].items()
            text.append(byte)
        return self._spell(bytes(text))[:count]

    def close(self, answer: Sequence[int]) -> list[int]:
        """An answer that was cut off: without what follows its last whole triplet, and with the end of a graph."""
        states, state = [self.begin], self.begin
        for token in answer:
            following = self.after(state, token)
            if following is None:
                break
            state = following
            states.append(state)
        if state == self._end:
            return list(answer)
        for count in range(len(states) - 1, -1, -1):
            if (closing := self._closing.get(states[count])) is not None:
                return [*answer[:count], *self._spell(closing)]
        return self._spell(START.encode() + _CLOSING)

    def _build(self, language: Language) -> None:
        entities = [spoken(name).encode() for name in language.entities]
        begun = self._path(self.begin, START.encode())
        blank = self._path(self.begin, b" ")
        self._next[blank][START.encode()[0]] = self._next[self.begin][START.encode()[0]]
        subjects = self._path(begun, b" ")  # or, in its place, the end
        objects, predicates = self._new(), self._new()
        self._closing |= {begun: _CLOSING, subjects: END.encode()}
        self._path(subjects, END.encode(), self._end)
        for name in entities:
            self._path(subjects, name + b",", objects)
            self._path(objects, name + b",", predicates)
        for name in language.predicates:
            whole = self._path(predicates, name.encode())
            between = self._path(whole, b";")
            self._path(between, b" ", subjects)
            self._path(whole, _CLOSING, self._end)
            self._closing |= {whole: _CLOSING, between: _CLOSING}

    def _new(self) -> int:
        self._next.append({})
        return len(self._next) - 1

    def _path(self, state: int, text: bytes, last: int | None = None) -> int:
        """The state behind `text`, made as far as it is not there; `last` is where it leads to."""
        for place, byte in enumerate(text, 1):
            if byte not in self._next[state]:
                self._next[state][byte] = last if last is not None and place == len(text) else self._new()
            state = self._next[state][byte]
        return state

    def _walk(self, state: int, text: Iterable[int]) -> int | None:
        for byte in text:
            following = self._next[state].get(byte)
            if following is None:
                return None
            state = following
        return state

    def _reachable(self, node: _Node, state: int) -> Iterable[int]:
        """Tokens below a node of the tree whose bytes may come, the node's own included."""
        yield from node.tokens
        for byte, following in self._next[state].items():
            if (below := node.at(byte)) is not None:
                yield from self._reachable(below, following)

    def _spell(self, text: bytes) -> list[int]:
        """Tokens of a text, from its start the longest one each; every byte has one."""
        tokens: list[int] = []
        while text:
            node, found, length = self._tree, -1, 0
            for place, byte in enumerate(text, 1):
                below = node.at(byte)
                if below is None:
                    break
                node = below
                if node.tokens:
                    found, length = node.tokens[0], place
            tokens.append(found)
            text = text[length:]
        return tokens


class _Node:
    """A place in the tree of all tokens by their bytes."""

    def __init__(self) -> None:
        self.tokens: list[int] = []  # that end here
        self._below: dict[int, _Node] = {}

    def at(self, byte: int) -> _Node | None:
        return self._below.get(byte)

    def add(self, text: bytes, token: int) -> None:
        node = self
        for byte in text:
            node = node._below.setdefault(byte, _Node())
        node.tokens.append(token)
