"""Batches from data sets: endless pairs of domains for training, exact padded passes for evaluation.

Both are grain pipelines whose last steps are `batch(local size)` and `[process_index :: process_count]`: of
every global batch, process p holds the contiguous block p. Slicing comes last, after shuffling and
augmentation, so the union over the processes is the same batch on any number of them, to the last crop.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from uda_jax.data.base import MAPS, Dataset, map_names
from uda_jax.data.io.parallel import end_with_parent
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.examples import DomainFrames, training_examples
from uda_jax.errors import UserError

# How grain begins to say that one of its processes is gone.
_WORKER_ENDED = "Worker process was terminated"
# Batches, not examples: a few are enough to hide decoding, and full-size crops are large.
_READ_OPTIONS = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)


def train_stream(
    domains: Mapping[str, Domain],
    *,
    global_batch: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    path: str = "config.data",
) -> "TrainStream":
    """Returns the endless stream of training batches, one group of maps per domain.

    Every domain is shuffled anew in each of its epochs, with numbers of its own; the shorter one simply has
    more epochs. Rare class sampling draws frames one by one instead, and a mixture takes those of its data sets in
    turn, by their weights. The batches depend on `seed`, the names of the domains and `global_batch`, and on nothing of
    the topology.

    Args:
      domains: name to domain, such as {"source": ..., "target": ...}.
      global_batch: frames of each domain per step, over all processes.
      seed: seed of the run.
      process_index, process_count: which block of each global batch to deliver.
      workers: loader processes; 0 decodes in threads of this one. A script that asks for workers needs
        `if __name__ == "__main__":`, since they are spawned.
      path: dotted name of the section that holds the domains, for messages.

    Returns:
      An iterator over {domain: {"image": uint8 [L, H, W, 3], ..., "index": int32 [L]}} with L = global_batch /
      process_count and the maps in `fields`, each as its row in `base.MAPS` says. Labels are [L, 1, 1] where they are
      classes of whole images.

    Raises:
      UserError: from opening the domains; from `next`, whatever is wrong with a file.
    """
    local = _local_batch(global_batch, process_count)
    examples = [training_examples(domain, f"{path}.{name}", f"{seed}/{name}") for name, domain in domains.items()]
    pairs = grain.experimental.ZipMapDataset(examples)
    batches = pairs.batch(local, drop_remainder=True, batch_fn=functools.partial(_stack_pairs, tuple(domains)))
    return TrainStream(batches, process_index, process_count, workers)


class TrainStream(grain.DatasetIterator):
    """What `train_stream` returns: a grain iterator whose state is the number of batches taken.

    grain's own state has one cursor per loader process and fits no other number of them. The order of our
    batches does not depend on the topology, so their number is the whole state, and a run may resume with other
    workers or processes. `get_state` and `set_state` are what Orbax checkpoints call; `close` ends the
    loader processes.
    """

    def __init__(self, batches: grain.MapDataset, process_index: int, process_count: int, workers: int):
        super().__init__()
        self._batches = batches
        self._process = (process_index, process_count)
        self._workers = workers
        self._step = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> dict[str, dict[str, np.ndarray]]:
        if self._closed:
            raise ValueError("the stream is closed")
        self.start_prefetch()
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if not str(error).startswith(_WORKER_ENDED):
                raise
            raise UserError(
                "a loader process was killed, perhaps for lack of memory; run it again with fewer than "
                f"{self._workers} workers, or on a machine with more memory"
            ) from None
        self._step += 1
        return _copied(batch) if self._workers else batch

    def start_prefetch(self) -> None:
        """Starts reading ahead; otherwise the first `next` does."""
        if self._iterator is not None:
            return
        index, count = self._process
        stream = self._batches[self._step * count + index :: count].to_iter_dataset(_READ_OPTIONS)
        if self._workers:
            # grain reads an absl flag, which fails outside of an absl app (in a notebook, under pytest).
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
            stream = stream.mp_prefetch(options, worker_init_fn=_begin_worker)
        self._iterator = iter(stream)
        self._iterator.start_prefetch()

    def get_state(self) -> dict[str, int]:
        """Returns {"step": number of batches taken}, which JSON can hold."""
        return {"step": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues after the number of batches in `state`."""
        self._stop()
        self._step = state["step"]

    def _set_next_index(self, index: int) -> None:
        """What `grain.experimental.set_next_index` calls."""
        self.set_state({"step": index})

    def close(self) -> None:
        """Stops reading ahead and ends the loader processes."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            # Dropped at once: grain complains about iterators that outlive the interpreter, even closed ones.
            self._iterator = None


def _copied(batch: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Returns a batch in memory of its own: a loader process shares its, which would last as long as the batch does.

    A device's array may be the batch itself, and the last one of a run is alive when Python ends, too late to free it.
    """
    return {domain: {name: np.array(array) for name, array in maps.items()} for domain, maps in batch.items()}


def _begin_worker(number: int, count: int) -> None:
    """What a loader process does first."""
    del number, count
    end_with_parent()


def evaluation_batches(
    domain: Domain | Dataset,
    batch_size: int,
    *,
    path: str = "domain",
    dataset: Dataset | None = None,
    alternative: str = "a batch size of 1",
    process_index: int = 0,
    process_count: int = 1,
) -> "EvaluationBatches":
    """Returns one exact pass over a domain, in order and without augmentation.

    The last batches are filled up with frames of nothing, as `base.MAPS` fills each map: black, labels ignored (255),
    depth invalid (0); and whose index is -1, so sums over valid pixels need no special case. Every process receives
    equally many batches, and of each global batch its contiguous block.

    Args:
      domain: the section, one data set with `scale`, `short_side`, `crop` and `flip` off; or an opened data set,
        taken as it is with all the maps of its first frame.
      batch_size: frames per batch over all processes; with 1, frames may have any size, and each batch has its own.
      path: dotted name of the section, for messages.
      dataset: the domain's data set where it is open already (see `domains.require_maps`).
      alternative: what else than a size makes frames of different sizes possible, for messages; "" if nothing does.
      process_index, process_count: which block of each global batch to deliver.

    Returns:
      An iterable with a length, over {"image": uint8 [L, H, W, 3], "label": uint8 [L, h, w], ..., "index": int32 [L]},
      with the maps in `fields`; h x w is the labels' own size where `resize_label` is False, else H x W.

    Raises:
      UserError: from opening the domain; from iterating, whatever is wrong with a file, or frames of different
        sizes.
    """
    local = _local_batch(batch_size, process_count)
    if isinstance(domain, Domain):
        if domain.scale or domain.crop or domain.flip:
            raise UserError(f"{path}: expected scale, crop and flip to be off for evaluation, since they are random")
        if domain.rare_classes or domain.mix:
            field = "mix" if domain.mix else "rare_classes"
            raise UserError(
                f"{path}.{field}: expected None for evaluation, which takes every frame of one data set once"
            )
        dataset = open_domain(domain, path) if dataset is None else dataset
    else:
        dataset = domain
        domain = Domain(fields=map_names(dataset[0], path), resize_label=False)
    frames = DomainFrames(dataset, domain, path, any_size=batch_size == 1, alternative=alternative)
    frames = _Padded(frames, batch_size)
    batches = grain.MapDataset.source(frames).batch(local, batch_fn=_stack)[process_index::process_count]
    return EvaluationBatches(dataset, batches)


class EvaluationBatches:
    """What `evaluation_batches` returns; iterating again starts again.

    Attributes:
      dataset: what lies behind the batches: `dataset.name(i)` names the frame of index i.
    """

    def __init__(self, dataset: Dataset, batches: grain.MapDataset):
        self.dataset = dataset
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        """Returns one batch; no other is read."""
        return self._batches[range(len(self))[batch]]

    def since(self, batch: int) -> "EvaluationBatches":
        """Returns the pass without its first batches, none of which is read."""
        return EvaluationBatches(self.dataset, self._batches[batch:])

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self._batches.to_iter_dataset(_READ_OPTIONS))


class _Padded:
    """Frames followed by as many empty ones as fill up the last batch."""

    def __init__(self, frames: DomainFrames, batch_size: int):
        self._frames = frames
        self._length = -(-len(frames) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 0:
            return self._frames.first
        if index < len(self._frames):
            return self._frames[index]
        fill = {
            field: np.full(shape, MAPS[field].fill, MAPS[field].dtype) for field, shape in self._frames.shapes.items()
        }
        return fill | {"index": -1}


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the maps and indices of some examples as one batch."""
    batch = {field: np.stack([example[field] for example in examples]) for field in map_names(examples[0], "batch")}
    return batch | {"index": np.array([example["index"] for example in examples], np.int32)}


def _stack_pairs(names: tuple[str, ...], groups: Sequence[tuple]) -> dict[str, dict[str, np.ndarray]]:
    """Returns {domain: batch} from a list of tuples that hold one example per domain."""
    return {name: _stack(examples) for name, examples in zip(names, zip(*groups, strict=True), strict=True)}


def _local_batch(global_batch: int, process_count: int) -> int:
    if global_batch < 1 or global_batch % process_count:
        raise UserError(f"batch size: expected a multiple of the {process_count} processes, got {global_batch}")
    return global_batch // process_count
