"""The sections `data` and `forget`: the images, and which of them are to be forgotten."""

from typing import Any

from vdu_jax.config.check import Check


def defaults(text: bool) -> dict[str, Any]:
    """The sections with their defaults.

    Args:
      text: whether they are for a text-to-image model.
    """
    data = {
        # Data set, or "image_folder" for images in data.manual_dir. For a text-to-image model, a
        # data set whose class names make the captions, or "captions" for images with metadata.jsonl
        # or metadata.csv in data.manual_dir.
        "name": "tinted_fashion" if text else "digits",
        "dir": "~/.cache/vdu_jax/data",  # folder of prepared data sets
        "manual_dir": "",  # folder of the original files, if they should not be downloaded
        "image_size": 0,  # pixels a side; only for "image_folder" and "captions"
        "channels": 3 if text else 0,  # 1 or 3; only for "image_folder" and "captions"
        # Colour behind transparent pixels, "white" or "black"; "" refuses images that have any.
        # Only for "image_folder" and "captions".
        "background": "",
        "cache_mb": 512,  # MB of decoded images kept in memory
    }
    forget = {
        "fraction": 1.0,  # share of the forget images that is available, in (0, 1]
        "limit": 0,  # at most this many forget images; 0 for all
        "seed": 0,  # seed of the choice of that share
    }
    if not text:
        classes = {"classes": (0,)}  # class numbers that must not be generated any more
        return {"data": data, "forget": classes | forget}
    captions = {
        "caption_column": "text",  # column of the captions in the metadata; only for "captions"
        # Captions made from class names, {} being the name; see `data.captions.of_classes`.
        "templates": ("a {}",),
        "synonyms": {},  # word -> another one, which replaces it in a fifth of the captions
        "caption_seed": 0,  # seed of the choice of templates and synonyms
    }
    feature = {
        "phrase": "red",  # images whose caption has it are D_f; "" for all images
        "prompts": (),  # prompts that ask for the feature
    }
    return {"data": data | captions, "forget": feature | forget}


def check(c: Check) -> None:
    """Refuse unknown data sets, and forget settings that select nothing or everything.

    Raises:
      UserError: with the key.
    """
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
