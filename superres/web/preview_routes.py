"""`POST /api/preview`: an upload as PNG, for browsers that cannot show TIFF or HEIC."""

from contextlib import closing

from flask import Flask, Response, request

from superres.images.formats import PNG
from superres.images.preview import read_longest
from superres.service.charges import Charge
from superres.service.runner import Runner
from superres.web.cache_policy import set_cache_policy
from superres.web.forms import FIELD
from superres.web.result_routes import send_content
from superres.web.uploads import has_left, read_upload


class PreviewRoutes:
    """Sends previews.

    Parameters
    ----------
    charge : charges the client
    """

    def __init__(self, runner: Runner, charge: Charge) -> None:
        self._runner = runner
        self._charge = charge

    def install(self, app: Flask) -> None:
        """Register the route."""
        app.post("/api/preview")(self.preview)

    def preview(self) -> Response:
        """Respond with an upload's preview."""
        set_cache_policy("live_status")
        runner, settings = self._runner, self._runner.settings
        with runner.scheduler.reading_upload():
            upload = read_upload(
                request, settings.max_upload_bytes, settings.upload_timeout_seconds
            )
        with closing(upload):
            max_side = read_longest(
                request.values.to_dict(flat=False), request.files.keys() - {FIELD}
            )
            preview = runner.previews.make(
                upload, max_side, lambda: has_left(request), self._charge
            )
        return send_content(preview, len(preview), PNG.media_type)
