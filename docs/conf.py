"""Sphinx configuration: ``sphinx-build -W --keep-going -n docs build/docs``. Nothing is fetched from the network."""

from __future__ import annotations

import argparse
import logging
import os
import re
import warnings
from functools import partial
from pathlib import Path

from docutils import nodes
from sphinx.util import inspect
from sphinx_gallery.sorting import FileNameSortKey

import monai_infoaug

os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars would fill the pages
warnings.filterwarnings("ignore", category=FutureWarning)
logging.getLogger("ignite").setLevel(logging.WARNING)

project = "monai_infoaug"
author = "the monai_infoaug contributors"
copyright = f"2026, {author}"
version = release = monai_infoaug.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["tutorials/*", "figures/*", "**sg_execution_times.rst"]
suppress_warnings = ["config.cache"]  # the gallery's sort key is a class

highlight_language = "none"  # of blocks that say none: commands, which wrap

html_theme = "furo"
html_title = f"monai_infoaug {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = ["Shape"]

# Other projects' names in signatures: their inventories cannot be had offline.
nitpick_ignore_regex = [
    (r"py:.*", r"monai_infoaug\.(.*\.)?_.*"),  # private bases
    (r"py:.*", r"monai_infoaug\.(.*\.)?[A-Z]"),  # type variables
    (r"py:.*", r"(SimpleITK|collections|ignite|matplotlib|monai|nn|np|numpy|os|pathlib|torch|typing)\..*"),
    (r"py:.*", r"(Axes|Any|Array|ArrayLike|Callable|DictConfig|Engine|Events|Figure|Hashable|Inferer|Iterable)"),
    (r"py:.*", r"(KeysCollection|Mapping|NdarrayOrTensor|PathLike|Path|Sequence|SummaryWriter|Tensor|optional)"),
]

plot_include_source = False
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 144)]
# mid-grey text on nothing reads on a light and on a dark page
plot_rcparams = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "image.interpolation": "nearest",
    "legend.framealpha": 0,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"], "#808080"
    ),
}
plot_apply_rcparams = True


def grey_figures(gallery_conf: dict, name: str) -> None:
    """The plot directive's look for the gallery."""
    import matplotlib

    matplotlib.rcParams.update(plot_rcparams)


sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "tutorials_built",
    "filename_pattern": r"\.py$",
    "within_subsection_order": FileNameSortKey,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 3600,
    "reset_modules": ("matplotlib", grey_figures),
    "remove_config_comments": True,
    "capture_repr": (),
    "image_scrapers": ("matplotlib",),
    "copyfile_regex": r"$^",
}


def escape_shapes(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """The star of a shape such as (C, *S) begins no emphasis."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"(?<=[(,])( ?)\*(?=\w)", r"\1\\*", part) for part in parts[::2]]
            lines[i] = "".join(parts)


def true_signature(
    app: object, what: str, name: str, thing: object, options: object, signature: str, returns: str
) -> tuple[str, str]:
    """That of ``__init__``, which MONAI's dictionary transforms hide behind ``__new__(cls, *args, **kwargs)``."""
    if what == "class" and signature == "(*args, **kwargs)":
        found = inspect.signature(thing.__init__, bound_method=True)
        signature = inspect.stringify_signature(found, show_return_annotation=False, unqualified_typehints=True)
    return signature, returns


def join_lines(app: object, doctree: nodes.document) -> None:
    """A command that is split at backslashes is one line on a page, which wraps by the width of the screen."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in ("bash", "none"):
            block.rawsource = re.sub(r" \\\n +", " ", block.astext())
            block[:] = [nodes.Text(block.rawsource)]


def break_at_options(app: object, page: str, template: str, context: dict, doctree: object) -> None:
    """Lines of commands break before an option, not behind its dashes; names in tables of a phone at their parts."""
    body = re.sub(
        r"<(pre|code)\b.*?</\1>",
        lambda code: re.sub(r"(?<=[\s>\[(])--?[a-zA-Z][\w-]*(?![^<>]*>)", r'<span class="whole">\g<0></span>', code[0]),
        context.get("body", ""),
        flags=re.S,
    )
    name = r'<span class="pre">([^<]*)</span>'
    breaks = partial(re.sub, r"(?<=\w)([._/])(?=[a-zA-Z])", r"\1<wbr>")
    context["body"] = re.sub(name, lambda word: f'<span class="pre">{breaks(word[1])}</span>', body)


def command_line_page() -> str:
    """The reference of the command line, made from its parsers."""
    from monai_infoaug.commands._arguments import make_parser

    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    lines = ["# Command line", "", parser.description, ""]
    for name, command in commands.choices.items():
        command.formatter_class = partial(argparse.HelpFormatter, width=88)
        description = re.sub(r"(?<!\w)--[\w-]+", r"`\g<0>`", str(command.description))  # else one long dash
        lines += [f"## monai-infoaug {name}", "", description, "", "```", " ".join(command.format_usage().split())]
        lines += ["```", "", "| argument | meaning (default) |", "|---|---|"]
        formatter = command._get_formatter()
        for action in command._actions[1:]:  # the first one is the help itself
            shown = ", ".join(f"`{form}`" for form in formatter._format_action_invocation(action).split(", "))
            cells = [text.replace("|", r"\|") for text in (shown, formatter._expand_help(action))]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


Path(__file__).with_name("cli.md").write_text(command_line_page(), encoding="utf-8")


def setup(app: object) -> None:
    app.connect("autodoc-process-docstring", escape_shapes)
    app.connect("autodoc-process-signature", true_signature)
    app.connect("doctree-read", join_lines)
    app.connect("html-page-context", break_at_options)
