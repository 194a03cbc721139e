"""`data` and `forget`: which images there are, and which of them are to be forgotten."""

from typing import Any

from vdu_jax.config.check import Check


def defaults(text: bool) -> dict[str, Any]:
    data = {
        # Of a text-to-image model, a data set whose class names make the captions, or "captions":
        # images with metadata.jsonl or metadata.csv in manual_dir.
        "name": "tinted_fashion" if text else "digits",
        "dir": "~/.cache/vdu_jax/data",  # where prepared data sets are kept
        "manual_dir": "",  # the original files, if they should not be downloaded
        "image_size": 0,  # of image_folder and "captions" only
        "channels": 3 if text else 0,  # likewise
        # Likewise: what transparent pixels are put on, "white" or "black"; "" refuses images that
        # have any.
        "background": "",
        "cache_mb": 512,  # decoded images kept in memory
    }
    forget = {
        "fraction": 1.0,  # part of their training images that is at hand, in (0, 1]
        "limit": 0,  # at most this many of them; 0 for all
        "seed": 0,  # which part
    }
    if not text:
        # What must not be generated any more.
        return {"data": data, "forget": {"classes": (0,)} | forget}
    captions = {
        "caption_column": "text",  # of "captions" only: what the metadata calls them
        # Of captions that class names make: see `data.captions.of_classes`.
        "templates": ("a {}",),
        "synonyms": {},
        "caption_seed": 0,
    }
    feature = {
        "phrase": "red",  # images whose caption has it are D_f; "" for all images
        "prompts": (),  # that ask for the feature
    }
    return {"data": data | captions, "forget": feature | forget}


def check(c: Check) -> None:
    """Refuse data that there is not, or from which nothing can be forgotten."""
    from vdu_jax import data
    from vdu_jax.data import images, registry

    section = c.config.data
    c.one_of("data.name", (*data.dataset_names(), *(["captions"] if c.text else [])))
    c.not_negative("data.image_size", "data.channels", "data.cache_mb")
    c.require(
        "data.background",
        lambda v: v in ("", *images.BACKGROUNDS),
        "must be 'white' or 'black', what transparent pixels are put on, or '' to refuse them",
    )
    if c.text:
        _check_captions(c)
    if section.name != "captions":
        said_nothing = section.channels == defaults(c.text)["data"]["channels"]
        registry.check_settings(
            section.name,
            section.image_size or None,
            None if said_nothing else section.channels,
            section.background,
        )
    c.share("forget.fraction", above_zero=True)
    c.not_negative("forget.limit", "forget.seed")
    (_check_feature if c.text else _check_classes)(c)


def _check_captions(c: Check) -> None:
    from vdu_jax.data import captions

    if c.config.data.name == "captions":
        c.positive("data.image_size")
        c.require("data.manual_dir", bool, "must name the folder with the images")
        c.one_of("data.channels", (1, 3))
        c.require("data.caption_column", bool, "must name the column that holds the captions")
    else:
        c.require(
            "data.caption_column",
            lambda v: v == captions.COLUMN,
            "is for data.name = 'captions': elsewhere the class names make the captions",
        )
    c.not_empty("data.templates", must="must have at least one")
    c.not_negative("data.caption_seed")


def _check_classes(c: Check) -> None:
    from vdu_jax import data

    info = data.static_info(c.config.data.name)
    high = None if info is None else info[1] - 1
    c.increasing_ints("forget.classes", 0, high)
    count = len(set(c.get("forget.classes")))
    c.require("forget.classes", lambda v: count == len(v) > 0, "must name classes, each once")
    if info is not None:
        c.require("forget.classes", lambda v: count < info[1], "must leave at least one class")


def _check_feature(c: Check) -> None:
    from vdu_jax.data import phrases

    phrase = c.config.forget.phrase
    c.require(
        "forget.phrase",
        lambda v: not v or phrases.fold(v),
        "must have a letter in it, or be '' for all images",
    )
    c.not_empty("forget.prompts", must="must name prompts that ask for the feature")
    c.not_empty("replay.prompts", must="must name prompts without the feature")
    for key in ("replay.prompts", "evaluate.other_prompts", "evaluate.paraphrases"):
        named = [p for p in c.get(key) if phrase and phrases.mentions(p, phrase)]
        c.require(key, lambda v, named=named: not named, f"must not have {phrase!r} in it")
