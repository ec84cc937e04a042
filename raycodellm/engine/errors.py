"""The errors that end a stage's training."""


class TrainingError(Exception):
    """Training cannot go on: a loss is not finite or explodes, or a checkpoint could not be written."""


class StorageError(TrainingError):
    """A checkpoint or result could not be written. The stage is sound, and continues once writing works again."""


class DamagedCheckpoint(Exception):
    """The files of a checkpoint are not those that its marker lists."""


class OutOfMemory(Exception):
    """Memory does not suffice. A GPU's message starts with CUDA: a slot then starts new processes."""
