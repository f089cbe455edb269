"""Finding the faces of a whole data set once, in many processes: what ``affuse data prepare`` does.

It may be interrupted at any time and started again: a clip whose faces are kept is not looked at twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from affuse.data.clip_index import ClipFile
from affuse.data.face_cache import FaceCache
from affuse.data.face_clips import MAX_FRAMES, NO_CLOCK_FPS, FaceClips
from affuse.signals.face import FacePipeline, read_faces
from affuse.types import AffuseError


@dataclass(frozen=True)
class Prepared:
    """What a preparation did.

    Args:
        count: clips in which faces were searched.
        reused: clips that were prepared before.
        failed: ``clip: what is wrong`` of those that cannot be read.
        frames: frames in which faces were searched.
        without_face: those of them in which none was found.
        seconds: how long it took.
    """

    count: int
    reused: int
    failed: tuple[str, ...]
    frames: int
    without_face: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """The throughput of all processes together; 0 where nothing was to be done."""
        return self.frames / self.seconds if self.frames else 0.0


def prepare(
    clips: Sequence[ClipFile],
    pipeline: FacePipeline,
    folder: str | Path,
    root: str | Path,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Find and keep the faces of clips.

    Args:
        clips: each with a path.
        pipeline: how faces are found.
        folder: where they are kept; it is made.
        root: the data set's folder, from which the clips' paths count.
        workers: processes; 0: this one.
        progress: told after each clip how many are done, and of how many.

    Raises:
        AffuseError: the folder cannot be written, or the detector is not installed.
    """
    cache = FaceCache(Path(folder), Path(root), pipeline)
    start = time.perf_counter()
    todo: list[tuple[Path, float]] = []
    failed: dict[str, str] = {}
    for clip in clips:
        assert clip.path is not None
        try:
            prepared = cache.has(clip.path)
        except OSError as error:  # such as a link to nothing
            failed[clip.name] = f"cannot be read ({error.strerror})"
            continue
        if not prepared:
            todo.append((clip.path, clip.fps or NO_CLOCK_FPS))
    unreadable = len(failed)
    names = {clip.path: clip.name for clip in clips}
    count = frames = without = done = 0
    try:
        cache.begin()
        with contextlib.closing(_answers(cache, todo, pipeline, workers)) as answers:
            for path, answer in answers:
                done += 1
                if isinstance(answer, str):
                    failed[names[path]] = answer
                    cache.refuse(path, answer)
                else:
                    count, frames, without = count + 1, frames + answer[0], without + answer[1]
                if progress is not None:
                    progress(done, len(todo))
    except OSError as error:
        raise AffuseError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from None
    said = tuple(f"{name}: {what}" for name, what in sorted(failed.items()))
    return Prepared(count, len(clips) - len(todo) - unreadable, said, frames, without, time.perf_counter() - start)


_Answer = tuple[int, int] | str  # frames and those without a face; or what is wrong


def _answers(
    cache: FaceCache, todo: Sequence[tuple[Path, float]], pipeline: FacePipeline, workers: int
) -> Generator[tuple[Path, _Answer], None, None]:
    if workers < 1:
        for path, fps in todo:
            yield path, _one(cache, path, fps, pipeline)
        return
    # This process must not be forked, for torch may run threads in it: a clean one is, after importing once for all.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, context, _leave_interrupts_to_the_parent)
    try:
        waiting: dict[Future[_Answer], Path] = {
            pool.submit(_one, cache, path, fps, pipeline): path for path, fps in todo
        }
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        # Interrupted: the clips that the processes hold or wait with are finished, the others are not begun.
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    import cv2
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _one(cache: FaceCache, path: Path, fps: float, pipeline: FacePipeline) -> _Answer:
    try:
        faces = read_faces(path, pipeline, max_frames=MAX_FRAMES, fps=fps)
    except AffuseError as error:
        if "pip install" in str(error):  # nothing is wrong with the clip
            raise
        return str(error)
    cache.store(path, faces)
    return len(faces.found), int((~faces.found).sum())


def prepare_data_set(
    name: str,
    root: str | Path,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Find and keep the faces of all clips of a data set.

    Args:
        name: its name in a recipe, such as ``dfew``.
        root: its folder.
        out: the folder that ``data.cache`` will name.
        settings: other fields of its configuration by their names, nested ones with dots, such as ``input.pipeline.detector``.
        workers, progress: see `prepare`.

    Raises:
        AffuseError: no data set of faces, a setting that it does not have, no pipeline, or what `prepare` raises.
    """
    from affuse.data import DATASETS  # this module is a part of it

    kind: Any = DATASETS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, DATASETS, 1)
        raise AffuseError(f"unknown data set {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if "input" not in {field.name for field in dataclasses.fields(kind)}:
        raise AffuseError(f"{name}: is no data set of clips of faces: nothing to prepare")
    config = _configured(kind, root, settings or {})
    splits = config.splits(0)
    sources = [splits.train, splits.validation, splits.test]
    clips = {clip.path: clip for source in sources if isinstance(source, FaceClips) for clip in source.clips}
    pipeline = config.input.pipeline
    if pipeline is None:
        raise AffuseError(f"{name}: its pictures are taken for faces already; give --data.input.pipeline.detector haar")
    return prepare(list(clips.values()), pipeline, out, root, workers, progress)


def _configured(kind: Any, root: str | Path, settings: Mapping[str, Any]) -> Any:
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name.partition(".")[0] not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            raise AffuseError(
                f"{kind.__name__} has no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        words = [f"--{name}={value}" for name, value in {"root": str(root), **settings}.items()]
        return kind(**dict(parser.instantiate_classes(parser.parse_args(words)).items()))
    except AffuseError as error:
        raise AffuseError(f"{kind.__name__}: {error}") from None
    except (ArgumentError, TypeError, ValueError) as error:
        raise AffuseError(f"{kind.__name__}: {' '.join(str(error).split())[:300]}") from None
