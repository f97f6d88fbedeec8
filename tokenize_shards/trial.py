"""One known good video, decoded before the work begins: if this machine cannot decode it, no video is to blame."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hitvideo.data.video_shards import VideoSample, scan, write_shards
from hitvideo.errors import ConfigError, VideoError
from hitvideo.video.encode import encode_mp4
from tokenize_shards.decoding import DecodingPool, WorkerError
from tokenize_shards.encoder import golden_clip
from tokenize_shards.recipe import Recipe


def try_decoding(pool: DecodingPool, recipe: Recipe) -> None:
    """Decode a clip of this program's own, of the first bucket's shape. Raises ConfigError if that fails."""
    shape = recipe.buckets[0]
    even = shape.model_copy(update={"frames": shape.frames + 1, "height": shape.height & ~1, "width": shape.width & ~1})
    with tempfile.TemporaryDirectory() as folder:
        video = VideoSample("trial", encode_mp4(golden_clip(even), even.fps), "mp4", {"caption": "waves"})
        (shard,) = write_shards([video], Path(folder), 1)
        try:
            pool.submit(shard, scan(shard).samples[0], recipe).result()
        except (VideoError, WorkerError) as error:
            raise ConfigError(
                f"this machine cannot decode a clip of {shape.frames}×{shape.height}×{shape.width} within the job's settings: "
                f"{error}; see data.decode_seconds, data.decode_gib and the section limits"
            ) from error
