from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageSequence

from analysis.plots.film import HEIGHT, Panel, write_film

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def plain(*colours, height=HEIGHT, width=100):
    """A frame of each colour."""
    return np.stack([np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)) for colour in colours])


def shown(path):
    with Image.open(path) as film:
        return [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(film)]


def where(picture, colour):
    """Rows and columns of the pixels of about this colour: (top, bottom, left, right)."""
    rows, columns = np.nonzero((np.abs(picture.astype(int) - colour) <= 12).all(-1))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_panels_stand_side_by_side_in_their_size_and_the_shorter_waits(tmp_path):
    panels = [Panel("one", plain(RED, GREEN), ["a", "b"]), Panel("two", plain(BLUE), ["c"])]
    write_film(tmp_path / "film.gif", "a title", panels, seconds=0.05)
    frames = shown(tmp_path / "film.gif")
    assert [duration for _, duration in frames] == [50, 1000]
    for (picture, _), colour in zip(frames, (RED, GREEN), strict=True):
        left, right = where(picture, colour), where(picture, BLUE)
        for top, bottom, first, end in (left, right):
            assert (bottom - top, end - first) == (HEIGHT, 100)
        assert left[3] < right[2]
        assert left[:2] == right[:2]
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["loop"] == 0  # for ever


def test_frames_of_another_size_are_scaled_to_the_height_with_their_proportions(tmp_path):
    write_film(tmp_path / "film.gif", "", [Panel("", plain(RED, height=500, width=250), [""])], seconds=0.1)
    ((picture, _),) = shown(tmp_path / "film.gif")
    top, bottom, first, end = where(picture, RED)
    assert (bottom - top, end - first) == (HEIGHT, HEIGHT // 2)


def test_title_names_and_captions_are_written_where_they_belong(tmp_path):
    def picture(title, name, caption):
        write_film(tmp_path / "film.gif", title, [Panel(name, plain(RED), [caption])], seconds=0.1)
        return shown(tmp_path / "film.gif")[0][0]

    empty = picture("", "", "")
    top, bottom, _, _ = where(empty, RED)
    for texts, place in (
        (("words", "", ""), slice(0, top // 2)),
        (("", "words", ""), slice(top // 2, top)),
        (("", "", "words"), slice(bottom, None)),
    ):
        written = picture(*texts)
        differs = (np.abs(written.astype(int) - empty) > 60).any(-1)
        assert differs[place].sum() > 20
        differs[place] = False
        assert not differs.any()


def test_each_frame_has_its_own_caption(tmp_path):
    write_film(tmp_path / "film.gif", "", [Panel("", plain(RED, RED), ["one", "three"])], seconds=0.1)
    (first, _), (second, _) = shown(tmp_path / "film.gif")
    bottom = where(first, RED)[1]
    assert (first[bottom:] != second[bottom:]).any()
    np.testing.assert_array_equal(first[:bottom], second[:bottom])


def test_a_long_line_is_made_to_fit(tmp_path):
    line = "word " * 9
    write_film(tmp_path / "film.gif", line, [Panel(line, plain(RED, width=300), [line])], seconds=0.1)
    ((picture, _),) = shown(tmp_path / "film.gif")
    top, _, _, _ = where(picture, RED)
    ink = np.nonzero((picture[:top] < 160).all(-1))[1]
    assert ink.max() < picture.shape[1] - 4


def test_frames_keep_their_colours_and_what_rests_does_not_flicker(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (HEIGHT, 1, 3))
    moving = np.stack([ramp.copy() for _ in range(4)])
    for t in range(4):
        moving[t, :20, 20 * t : 20 * t + 20] = RED
    write_film(tmp_path / "film.gif", "", [Panel("", moving, [""] * 4)], seconds=0.1)
    pictures = [picture for picture, _ in shown(tmp_path / "film.gif")]
    top, _, left, _ = where(pictures[0], RED)
    inside = [picture[top : top + HEIGHT, left : left + 200] for picture in pictures]
    assert np.abs(inside[0].astype(int) - moving[0]).mean() < 4
    assert all((picture[20:] == inside[0][20:]).all() for picture in inside)


@pytest.mark.parametrize(
    ("panels", "seconds", "message"),
    [
        ([], 0.1, "panels: "),
        ([Panel("", plain(RED), [])], 0.1, r"\[\(1, 0\)\]; need a panel, and in each as many captions as frames"),
        ([Panel("", plain(RED)[:0], [])], 0.1, r"\[\(0, 0\)\]"),
        ([Panel("", plain(RED), [""])], 0.0, "seconds=0.0: need a time above 0"),
    ],
)
def test_what_makes_no_film_is_refused(tmp_path, panels, seconds, message):
    with pytest.raises(ValueError, match=message):
        write_film(tmp_path / "film.gif", "", panels, seconds)
    assert not list(tmp_path.iterdir())
