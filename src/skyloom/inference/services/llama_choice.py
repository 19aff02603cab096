"""Which token llama.cpp writes next: by chance, penalties, biases, and within a grammar. For one request, on the engine's thread."""

import ctypes
import secrets
from typing import Any

import numpy as np

from skyloom.inference.services.sampling import Sampling

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class NothingFits(Exception):
    """The grammar allows no token that the model has."""


class TokenChoice:
    """One request's samplers; they remember what was written.

    Args:
        grammar: in GBNF, one that the library has taken before; empty for none.
    """

    def __init__(self, llama: Any, vocab: Any, num_words: int, sampling: Sampling, grammar: str = "") -> None:
        self._llama = llama
        self._num_words = num_words
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._grammar = llama.llama_sampler_init_grammar(vocab, grammar.encode(), b"root") if grammar else None
        for one in self._steps(sampling):
            llama.llama_sampler_chain_add(self._chain, one)

    def free(self) -> None:
        """Give the memory back; not to be used afterwards."""
        self._llama.llama_sampler_free(self._chain)
        if self._grammar:
            self._llama.llama_sampler_free(self._grammar)

    def choose(self, context: Any, place: int) -> int:
        """The next token. Raises `NothingFits`."""
        if not self._grammar:
            return int(self._llama.llama_sampler_sample(self._chain, context, place))
        raw = self._llama.llama_get_logits_ith(context, place)
        logits = np.ctypeslib.as_array(raw, shape=(self._num_words,))
        token = self._drawn(_candidates(np.arange(self._num_words, dtype=np.int32), logits), within=False)
        one = _candidates(np.array([token], np.int32), np.ones(1, np.float32))
        self._llama.llama_sampler_apply(self._grammar, ctypes.byref(self._array(one)))
        if not np.isfinite(
            one["logit"][0]
        ):  # rare: the model knows what is asked for, and a look at every word takes long
            token = self._drawn(_candidates(np.arange(self._num_words, dtype=np.int32), logits), within=True)
        self._llama.llama_sampler_accept(self._grammar, token)
        self._llama.llama_sampler_accept(self._chain, token)
        return token

    def _drawn(self, candidates: Any, *, within: bool) -> int:
        array = self._array(candidates)
        if within:
            self._llama.llama_sampler_apply(self._grammar, ctypes.byref(array))
            fitting = candidates[np.isfinite(candidates["logit"])]
            if not len(fitting):
                # The library would take any, and end the whole process when it does not fit.
                raise NothingFits
            candidates = np.ascontiguousarray(fitting)
            array = self._array(candidates)
        self._llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _array(self, candidates: Any) -> Any:
        data = candidates.ctypes.data_as(ctypes.POINTER(self._llama.llama_token_data))
        return self._llama.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)

    def _steps(self, sampling: Sampling) -> list[Any]:
        llama = self._llama
        steps: list[Any] = []
        biases = [
            (int(token), bias) for token, bias in (sampling.logit_bias or {}).items() if int(token) < self._num_words
        ]
        if biases:
            held = (llama.llama_logit_bias * len(biases))(*(llama.llama_logit_bias(*one) for one in biases))
            steps.append(llama.llama_sampler_init_logit_bias(self._num_words, len(biases), held))
        if sampling.frequency_penalty or sampling.presence_penalty:
            strengths = (1.0, sampling.frequency_penalty or 0.0, sampling.presence_penalty or 0.0)
            steps.append(llama.llama_sampler_init_penalties(self._num_words, sampling.max_tokens, *strengths))
        if sampling.temperature == 0:
            return [*steps, llama.llama_sampler_init_greedy()]
        seed = secrets.randbits(31) if sampling.seed is None else sampling.seed & 0x7FFFFFFF
        return [
            *steps,
            llama.llama_sampler_init_temp(sampling.temperature),
            llama.llama_sampler_init_top_p(sampling.top_p, 1),
            llama.llama_sampler_init_dist(seed),
        ]


def _candidates(tokens: Any, logits: Any) -> Any:
    made = np.zeros(len(tokens), _CANDIDATE)
    made["id"], made["logit"] = tokens, logits
    return made


def grammar_of(llama: Any, vocab: Any, schema: str) -> str:
    """A JSON Schema that was checked as a grammar that the library takes. Raises ``ValueError``."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        grammar: str = json_schema_to_gbnf(schema)
    except Exception as error:  # a converter that was written for schemas of friends
        raise ValueError(f"{type(error).__name__}: {error}") from error
    tried = llama.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    if not tried:
        raise ValueError("llama.cpp cannot follow its grammar")
    llama.llama_sampler_free(tried)
    return grammar
