"""llama.cpp with continuous batching: requests join and leave the running batch token by token, on a thread of their own.

Runs in the process of one model, never in the data plane. Each step decodes one token of every request that writes, and a share of the
prompts of those that have just come, so that a long prompt slows the others down and does not stop them. A failure of the engine ends the
process.
"""

import ctypes
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skyloom.inference.runtimes.seam import refused
from skyloom.inference.services.llama_choice import NothingFits, TokenChoice, grammar_of
from skyloom.inference.services.sampling import Sampling

_BATCH_TOKENS = 512
_PROMPT_TOKENS = 64  # of prompts in one step, while others write
_MAX_PIECE_BYTES = 1_024


class Likely(NamedTuple):
    """A token and the logarithm of its probability."""

    piece: bytes
    logprob: float


class Written(NamedTuple):
    """One token more. ``chosen`` and ``likely``: probabilities, where they were asked for."""

    piece: bytes
    chosen: float = 0.0
    likely: tuple[Likely, ...] = ()


class WrittenOut(NamedTuple):
    """There is no more: the model ended by itself, its tokens are used up, or its grammar allows nothing that it has."""

    is_cut: bool
    is_stuck: bool = False


class WritingFailed(Exception):
    """The engine failed."""


class Writing:
    """One request.

    Args:
        heard: called on the engine's thread with `Written`, and last with `WrittenOut`.
        grammar: of `LlamaBatches.grammar`, where the answer is to fit one.
    """

    def __init__(
        self, prompt: Sequence[int], sampling: Sampling, heard: Callable[[object], object], grammar: str = ""
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.heard = heard
        self.is_given_up = False
        self.seat = -1
        self.grammar = grammar
        self.choice: TokenChoice
        self.position = 0
        self.num_written = 0
        self.last = -1

    @property
    def num_tokens(self) -> int:
        """That it may come to need room for."""
        return len(self.prompt) + self.sampling.max_tokens


class LlamaBatches:
    """One GGUF model in memory, as long as its process lives.

    Args:
        context_tokens: that all running requests together may have, prompts included; 0 for what the model was trained for, at most 8,192.
        num_at_once: requests that run together; more wait for their turn.

    Raises `BundleRefused` when the file cannot be loaded.
    """

    def __init__(self, path: Path, threads: int, gpus: int, context_tokens: int, num_at_once: int) -> None:
        try:
            import llama_cpp
        except ImportError as error:
            raise refused(
                "it is for llama.cpp, which is not installed here",
                "Install it where replicas run: pip install 'skyloom[llama]'.",
            ) from error

        self._llama: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(_log)  # kept: the library calls it for as long as it lives
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = self._loaded(path, gpus)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.trained_tokens = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self.context_tokens = min(context_tokens or 8_192, self.trained_tokens)
        self._context = self._opened(threads, num_at_once)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._num_words = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS + num_at_once, 0, 1)
        self._seats = set(range(num_at_once))
        self._free_tokens = self.context_tokens
        self._running: list[Writing] = []
        self._waiting: deque[Writing] = deque()
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="llama", daemon=True)
        self._thread.start()

    def tokens(self, text: str, *, is_template: bool) -> list[int]:
        """A text as tokens. ``is_template``: it was made by the model's template, so its special words are meant."""
        raw = text.encode()
        begin = self.special(self._llama.llama_vocab_bos(self._vocab))
        adds = not (is_template and begin and text.startswith(begin))
        size = len(raw) + 8
        found = (self._llama.llama_token * size)()
        count = self._llama.llama_tokenize(self._vocab, raw, len(raw), found, size, adds, is_template)
        if count < 0:
            raise WritingFailed("a text could not be cut into tokens")
        return list(found[:count])

    def template(self) -> str:
        """The model's chat template (Jinja), or nothing."""
        found = self._llama.llama_model_chat_template(self._model, None)
        return found.decode(errors="replace") if found else ""

    def special(self, token: int) -> str:
        """A special token's own word, for templates; nothing when there is none."""
        found = self._llama.llama_vocab_get_text(self._vocab, token) if token >= 0 else b""
        return str((found or b"").decode(errors="replace"))

    def ends(self) -> tuple[str, str]:
        """The words that begin and end a text."""
        return (
            self.special(self._llama.llama_vocab_bos(self._vocab)),
            self.special(self._llama.llama_vocab_eos(self._vocab)),
        )

    def grammar(self, schema: str) -> str:
        """What a text that fits a JSON Schema may look like, for `Writing`. Raises ``ValueError``."""
        return grammar_of(self._llama, self._vocab, schema)

    def write(self, writing: Writing) -> None:
        """Take a request; it is heard of later. Its tokens must fit into `context_tokens`."""
        with self._change:
            self._waiting.append(writing)
            self._change.notify()

    def give_up(self, writing: Writing) -> None:
        """Nobody waits for it any more: its place is free after the step that runs now."""
        with self._change:
            writing.is_given_up = True
            self._change.notify()

    # -- loading ------------------------------------------------------------------------------------------------------------

    def _loaded(self, path: Path, gpus: int) -> Any:
        settings = self._llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        if gpus:
            if not self._llama.llama_supports_gpu_offload():
                raise refused(
                    "this llama.cpp was built without a GPU", "Build llama-cpp-python for it, or deploy without."
                )
            settings.n_gpu_layers = -1
        model = self._llama.llama_model_load_from_file(str(path).encode(), settings)
        if not model:
            raise refused("llama.cpp cannot load its model.gguf", "See the replica's log for what it says.")
        return model

    def _opened(self, threads: int, num_at_once: int) -> Any:
        settings = self._llama.llama_context_default_params()
        settings.n_ctx = self.context_tokens
        settings.n_batch = settings.n_ubatch = _BATCH_TOKENS + num_at_once
        settings.n_seq_max = num_at_once
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True  # one request may use all of the context, or many share it
        context = self._llama.llama_init_from_model(self._model, settings)
        if not context:
            raise refused(
                f"there is no memory for {self.context_tokens} tokens", "Register it with fewer --context-tokens."
            )
        return context

    # -- the thread ---------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                self._seat()
                self._step()
        except BaseException:
            traceback.print_exc()
            # Whoever waits is told by the data plane, which starts this process again: a model that failed once may be in any state.
            os._exit(1)

    def _seat(self) -> None:
        """Free the seats of those that are over, give them to who waits, in order; wait while there is nobody."""
        with self._change:
            while True:
                for writing in [one for one in self._running if one.is_given_up]:
                    self._leave(writing)
                while self._waiting and self._takes(self._waiting[0]):
                    self._sit(self._waiting.popleft())
                if self._running:
                    return
                self._change.wait()

    def _takes(self, writing: Writing) -> bool:
        return writing.is_given_up or (bool(self._seats) and writing.num_tokens <= self._free_tokens)

    def _sit(self, writing: Writing) -> None:
        if writing.is_given_up:
            return
        writing.seat = self._seats.pop()
        writing.choice = TokenChoice(self._llama, self._vocab, self._num_words, writing.sampling, writing.grammar)
        self._free_tokens -= writing.num_tokens
        self._running.append(writing)

    def _leave(self, writing: Writing) -> None:
        self._running.remove(writing)
        self._llama.llama_memory_seq_rm(self._memory, writing.seat, -1, -1)
        writing.choice.free()
        self._seats.add(writing.seat)
        self._free_tokens += writing.num_tokens

    def _step(self) -> None:
        """Decode once: a token of everybody who writes, then shares of prompts."""
        self._batch.n_tokens = 0
        asked: list[tuple[Writing, int]] = []
        for writing in self._running:
            if writing.position >= len(writing.prompt):
                asked.append((writing, self._add(writing, writing.last, is_asked=True)))
        room = _PROMPT_TOKENS if asked else _BATCH_TOKENS
        for writing in self._running:
            share = writing.prompt[writing.position : writing.position + room]
            for token in share:
                is_last = writing.position == len(writing.prompt) - 1
                place = self._add(writing, token, is_asked=is_last)
                if is_last:
                    asked.append((writing, place))
            room -= len(share)
        code = self._llama.llama_decode(self._context, self._batch)
        if code:
            raise WritingFailed(f"llama_decode returned {code}")
        for writing, place in asked:
            self._chosen(writing, place)

    def _add(self, writing: Writing, token: int, *, is_asked: bool) -> int:
        batch, place = self._batch, self._batch.n_tokens
        batch.token[place] = token
        batch.pos[place] = writing.position
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = writing.seat
        batch.logits[place] = is_asked
        batch.n_tokens += 1
        writing.position += 1
        return int(place)

    def _chosen(self, writing: Writing, place: int) -> None:
        try:
            token = writing.choice.choose(self._context, place)
        except NothingFits:
            self._end(writing, WrittenOut(is_cut=False, is_stuck=True))
            return
        is_end = self._llama.llama_vocab_is_eog(self._vocab, token)
        writing.last = token
        if not is_end:
            writing.num_written += 1
            chosen, likely = self._probabilities(writing, token, place)
            writing.heard(Written(self._piece(token), chosen, likely))
        if is_end or writing.num_written >= writing.sampling.max_tokens:
            self._end(writing, WrittenOut(is_cut=not is_end))

    def _end(self, writing: Writing, last: WrittenOut) -> None:
        writing.heard(last)
        with self._change:
            self._leave(writing)

    def _probabilities(self, writing: Writing, token: int, place: int) -> tuple[float, tuple[Likely, ...]]:
        """The model's own, before temperature and top_p."""
        wanted = writing.sampling.num_likely
        if wanted is None:
            return 0.0, ()
        import numpy as np

        raw = self._llama.llama_get_logits_ith(self._context, place)
        logits = np.ctypeslib.as_array(raw, shape=(self._num_words,)).astype(np.float64)
        logs = logits - logits.max()
        logs -= np.log(np.exp(logs).sum())
        best = np.argpartition(-logs, wanted)[:wanted] if wanted else np.empty(0, int)
        ordered = sorted(best.tolist(), key=lambda one: -logs[one])
        return float(logs[token]), tuple(Likely(self._piece(one), float(logs[one])) for one in ordered)

    def _piece(self, token: int) -> bytes:
        held = ctypes.create_string_buffer(_MAX_PIECE_BYTES)
        size = self._llama.llama_token_to_piece(self._vocab, token, held, _MAX_PIECE_BYTES, 0, False)
        return held.raw[: max(0, size)]


def _log(level: int, text: bytes, _: Any) -> None:
    """Errors of the library alone: it tells much."""
    if level == 3:
        print(text.decode(errors="replace"), end="", file=sys.stderr, flush=True)
