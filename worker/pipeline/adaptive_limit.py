"""How many pictures a worker has in hand: as many as keep the model from waiting for S3, and no more."""


class AdaptiveLimit:
    """Looked at anew whenever as many pictures have gone to the model as were in hand: twice as many from then on where
    it had to wait meanwhile, although its worker could not claim more; a quarter fewer where more than half of them
    only ever stood in line. So a slow model holds few pictures that another worker might begin with, and a quick one as
    many as are on their way to it and from it. For one thread, and whoever reads `size`.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self.size = least
        self._begin()

    def _begin(self) -> None:
        self._taken, self._starved, self._in_line = 0, False, self._most

    def record(self, images: int, *, waiting: int, starved: bool) -> None:
        """So many went to the model and `in_line` still wait for it. `starved`: it had room for more, and its worker
        none to claim them.
        """
        self._taken += images
        self._starved |= starved
        self._in_line = min(self._in_line, waiting)
        if self._taken < self.size:
            return
        if self._starved:
            self.size = min(self._most, 2 * self.size)
        elif self._in_line > self.size // 2:
            self.size = max(self._least, self.size - self.size // 4)
        self._begin()
