"""The options of data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: ArgumentParser) -> None:
    """``--data`` and what goes with each data set. None stands for the loader's own default."""
    data = parser.add_argument_group("data", "each option belongs to the data sets named in brackets")
    data.add_argument(
        "--data",
        type=str,
        default="digits",
        help="digits (scikit-learn's, 8 x 8, no download), mnist, or array (a file of your own, with --path)",
    )
    data.add_argument(
        "--view",
        type=str | None,
        help="[digits] binary (the default), counts (0 to 16) or dequantised; [mnist] dynamic (binarised anew in every "
        "batch; the default), static (Larochelle's files), threshold, or none (grey levels)",
    )
    data.add_argument(
        "--dynamic",
        type=bool | None,
        help="[digits, --view binary] binarise the training data anew in every batch (default: false)",
    )
    data.add_argument(
        "--data-dir",
        type=str | None,
        help="[mnist] the folder of the four IDX files, or of Larochelle's three; without it they are downloaded",
    )
    data.add_argument(
        "--split",
        type=str | None,
        help="[mnist] 50k (the default: 10,000 training images are kept to validate) or 60k (none are)",
    )
    data.add_argument(
        "--flat",
        type=bool | None,
        help="[digits, mnist] data as vectors (the default) or as (1, H, W) (the default with a ConvNet)",
    )
    data.add_argument(
        "--path", type=str | None, help="[array] a .npy, .npz, .csv or .csv.gz file, a datum a row"
    )
    data.add_argument(
        "--key", type=str | None, help="[array] which array of an .npz (default: the only one, or x)"
    )
    data.add_argument(
        "--labels-key",
        type=str | None,
        help="[array] integer labels: an array of the .npz, or a column of the CSV",
    )
    data.add_argument(
        "--valid-fraction",
        type=float | None,
        help="[array] the share kept to validate (default: 0.1; 0 for none)",
    )
    data.add_argument(
        "--test-fraction", type=float | None, help="[array] the share kept to test (default: 0.1)"
    )
    data.add_argument(
        "--image-shape", type=list[int] | None, help='[array] how to lay a datum out in pictures: "[8, 8]"'
    )
    data.add_argument(
        "--data-seed",
        type=int | None,
        help="of splitting, binarising and dequantising the data (default: 0). It is part of what the data are: "
        "keep it over all runs that are to be compared, and vary --seed",
    )
