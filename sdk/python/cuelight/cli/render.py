"""One offline render from the command line: submitted, watched with a bar, fetched. Knows no process of the stack."""

from __future__ import annotations

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cuelight.cli.console import UsageError, err
from cuelight.cli.performance import Cast
from cuelight.client import Client
from cuelight.errors import SessionFailed
from cuelight.renders import MAX_SCRIPT_BYTES, RenderInfo, RenderRequest, RenderState


def render_request(text: str, cast: Cast, job_id: str) -> RenderRequest:
    """What to ask for.

    Raises:
        UsageError: the text is too long for one render.
    """
    if len(text.encode(errors="replace")) > MAX_SCRIPT_BYTES:
        raise UsageError(f"the text is longer than {MAX_SCRIPT_BYTES >> 20} MiB, which is the most for one job")
    return RenderRequest(
        script=text,
        render_id=job_id,
        prompt=cast.prompt,
        character=cast.character,
        seed=cast.seed,
        portrait=cast.portrait.read_bytes() if cast.portrait else b"",
        voice=cast.voice.read_bytes() if cast.voice else b"",
    )


async def render_job(client: Client, request: RenderRequest, path: Path) -> RenderInfo:
    """Has a render made, shows how far it is, and writes its file to ``path``.

    Raises:
        CuelightError: it was refused, or failed, or was cancelled meanwhile.
    """
    taken = await client.renders.submit(request)
    job_id = taken.name.rpartition("/")[2]
    err.print(f"job {job_id}: it goes on if you leave; the same command with --job-id {job_id} finds it again.")
    done = await _watched(client, taken)
    if done.state is RenderState.FAILED:
        raise done.error or SessionFailed("the render failed")
    if done.state is RenderState.CANCELLED:
        raise SessionFailed("the render was cancelled", status="CANCELLED")
    return await client.renders.save(done.name, path)


async def _watched(client: Client, taken: RenderInfo) -> RenderInfo:
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("words"),
        TextColumn("{task.fields[chunks]}"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        info, task = taken, progress.add_task("", total=taken.words_total, chunks="", state="")
        async for info in client.renders.watch(taken.name):
            progress.update(
                task,
                completed=info.words,
                chunks=f"{info.chunks} chunks, {int(info.media_s) // 60}:{int(info.media_s) % 60:02d}",
                state="waits for room" if info.is_waiting else str(info.state),
            )
    return info
