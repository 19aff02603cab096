"""What every runtime promises (`inference/runtimes/seam.py`)."""

from pathlib import Path

import numpy as np
import pytest

from skyloom.inference import runtimes
from skyloom.inference.runtimes.seam import BundleRefused, Grant, Runtime
from skyloom.rooms.registry.bundle import Manifest, RuntimeName


class RuntimeContract:
    """Subclass it; give it a bundle with one input of floats and what its model says about rows."""

    name: RuntimeName

    def bundle(self, folder: Path) -> Manifest:
        """Write a bundle of the runtime's."""
        raise NotImplementedError

    def rows(self, count: int) -> np.ndarray:
        raise NotImplementedError

    def expected(self, folder: Path, rows: np.ndarray) -> np.ndarray:
        """What the first output must be, from somewhere else than the adapter."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("bundle") / "made"
        return folder, cls().bundle(folder)

    @property
    def runtime(self) -> Runtime:
        return runtimes.find(self.name)

    def test_batches_of_all_sizes_are_answered_as_the_model_says(self, made) -> None:
        folder, manifest = made
        session = self.runtime.load(folder, manifest, Grant(1))
        for count in (1, 2, 7, 33, 1):
            rows = self.rows(count)
            outputs = session.run([rows])
            assert len(outputs) == len(manifest.signature.outputs)
            np.testing.assert_allclose(outputs[0], self.expected(folder, rows), rtol=1e-5, atol=1e-5)
        session.close()

    def test_slots_agree_with_the_signature_where_the_file_speaks(self, made) -> None:
        folder, manifest = made
        session = self.runtime.load(folder, manifest, Grant(2))
        for slots, specs in (
            (session.inputs, manifest.signature.inputs),
            (session.outputs, manifest.signature.outputs),
        ):
            assert [slot.name for slot in slots] == [spec.name for spec in specs]
            assert all(
                slot.datatype in ("", spec.datatype) and slot.rank in (None, len(spec.shape))
                for slot, spec in zip(slots, specs, strict=True)
            )
        session.close()

    def test_signature_is_read_from_the_file(self, made) -> None:
        folder, manifest = made
        assert self.runtime.signature(folder / self.runtime.model_file) == manifest.signature

    def test_answers_do_not_share_memory_with_later_ones(self, made) -> None:
        folder, manifest = made
        session = self.runtime.load(folder, manifest, Grant(1))
        first = session.run([self.rows(3)])[0]
        kept = first.copy()
        session.run([-self.rows(3)])
        assert (first == kept).all()
        session.close()

    def test_memory_is_estimated_and_close_is_safe_to_repeat(self, made) -> None:
        folder, manifest = made
        session = self.runtime.load(folder, manifest, Grant(1))
        assert session.memory_bytes >= (folder / self.runtime.model_file).stat().st_size
        session.close()
        session.close()

    def test_damaged_model_file_is_refused(self, made, tmp_path) -> None:
        folder, manifest = made
        content = (folder / self.runtime.model_file).read_bytes()
        for damaged in (b"", b"not a model", content[: len(content) // 2]):
            (tmp_path / self.runtime.model_file).write_bytes(damaged)
            with pytest.raises(BundleRefused):
                self.runtime.load(tmp_path, manifest, Grant(1))
