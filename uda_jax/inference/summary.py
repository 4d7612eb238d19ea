"""What a pass of predictions did, and where its time went."""

import collections
import dataclasses
import pathlib

# How many of the files that were passed over are named.
_NAMED = 5


@dataclasses.dataclass
class Summary:
    """What `predict.predict_folder` did.

    Attributes:
      written: the first file of each image, its labels where these are wanted.
      skipped: how many images had all their files.
      renamed: (input, label PNG) where another input has the plain name, or the name will not do for a file.
      failed: (input, reason) of the images that could not be read.
      passed_over: files that are no pictures of a kind that is read.
      notes: what was done otherwise than asked.
      seconds: from the first image read to the last one written.
      compiling: of these, in which programs were compiled, once for each size of images.
      busy: in which the device computed.
      reading, writing: in which it waited for images, and for files to be written.
    """

    written: list[pathlib.Path] = dataclasses.field(default_factory=list)
    skipped: int = 0
    renamed: list[tuple[pathlib.Path, pathlib.Path]] = dataclasses.field(default_factory=list)
    failed: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)
    passed_over: list[pathlib.Path] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    compiling: float = 0.0
    busy: float = 0.0
    reading: float = 0.0
    writing: float = 0.0

    @property
    def device_share(self) -> float | None:
        """The share of the time, but for that of compiling, in which the device computed; None if all was compiling."""
        running = self.seconds - self.compiling
        return self.busy / running if self.busy and running > 0 else None

    def __str__(self) -> str:
        unread = {source for source, _ in self.failed}
        lines = [
            f"{source}: written as {target.name}, its plain name was taken or too long"
            for source, target in self.renamed
            if source not in unread
        ]
        lines += self.notes
        if self.passed_over:
            kinds = collections.Counter(path.suffix.lower() or "without ending" for path in self.passed_over)
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            named = ", ".join(path.name for path in self.passed_over[:_NAMED])
            more = ", ..." if len(self.passed_over) > _NAMED else ""
            lines.append(
                f"{len(self.passed_over)} files passed over, no pictures that are read: {counts} ({named}{more})"
            )
        if self.written:
            lines.append(self._times())
        # The reasons name the files already.
        lines += [reason for _, reason in self.failed]
        skipped = f"{self.skipped} skipped, whose files exist, " if self.skipped else ""
        lines.append(f"{len(self.written)} images predicted, {skipped}{len(self.failed)} could not be read")
        return "\n".join(lines)

    def _times(self) -> str:
        count = len(self.written)
        line = f"{count} frames in {self.seconds:.1f} s"
        if self.device_share is None:
            return f"{line}, {self.compiling:.1f} s of it to compile"
        running = self.seconds - self.compiling
        shares = ((self.busy, "busy"), (self.reading, "waiting for reading"), (self.writing, "waiting for writing"))
        told = ", ".join(f"{100 * part / running:.0f} % {word}" for part, word in shares)
        rate = f"{count / running:.1f} frames/s"
        return f"{line}; apart from {self.compiling:.1f} s to compile, {rate}, and the device was {told}"
