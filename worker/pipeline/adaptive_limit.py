"""The number of images that a worker claims ahead: enough to keep its model busy, and no more."""


class AdaptiveLimit:
    """An AIMD-like limit on claimed images, used by one thread; any thread may read `size`.

    It is adjusted each time `size` images have gone to the model: doubled if the model had to wait for images that the
    limit did not let its worker claim, cut by a quarter if more than half of them were always queued. So a slow model
    leaves images to other workers, and a fast one has enough in flight to and from S3.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self.size = least
        self._reset()

    def _reset(self) -> None:
        self._taken, self._starved, self._fewest_waiting = 0, False, self._most

    def record(self, images: int, *, waiting: int, starved: bool) -> None:
        """Count `images` that went to the model while `waiting` remained queued.

        `starved`: the model had room for more, and the limit kept its worker from claiming them.
        """
        self._taken += images
        self._starved |= starved
        self._fewest_waiting = min(self._fewest_waiting, waiting)
        if self._taken < self.size:
            return
        if self._starved:
            self.size = min(self._most, 2 * self.size)
        elif self._fewest_waiting > self.size // 2:
            self.size = max(self._least, self.size - self.size // 4)
        self._reset()
