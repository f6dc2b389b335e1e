"""Turn notebooks into HTML pages that need no network: formulas as MathML, pictures embedded, readable on a phone."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from joblib import Parallel, delayed
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from PIL import Image
from pygments.formatters import HtmlFormatter

from ..settings import REPO_ROOT, CourseError, atomic_path
from ..tables import Table

DOCS = "docs"  # the folder of pages beside the notebooks' own
# What each notebook answers, for the lists of the first page and the site: an opening may lead up to it in many words.
QUESTIONS = {
    "00_start_here": "Is my machine ready, and what will I be able to do?",
    "01_faces": "Which faces, under which terms, cut and aligned how, and who plays which part?",
    "02_face_model": "How does a photo become a point, and why do one person's photos land together?",
    "03_retrieval": "How is a face found in a gallery, and how is that scored?",
    "04_sphere": "With nothing but points on a sphere: what does each loss ask for?",
    "05_relabel_and_ascend": "If a model no longer calls people by their names, can a search still find them?",
    "06_boundaries_and_teachers": "What becomes of a cluster when all its photos get the same new target?",
    "07_prune_and_project": "Where in a million weights does one person live, and what is lost when it is cut out?",
    "08_dispersion": "What makes a person unfindable, and what does it cost everybody else?",
    "09_benchmark": "Which method, at what price, for how many people?",
    "10_audit": "Does a forgotten face come back when somebody tries harder?",
    "11_forget_me": "Can a machine be made to forget you, and who finds you all the same?",
    "12_scaling_up": "What changes when a gallery holds a million faces, is updated, and has to delete?",
}
MARK = '<meta name="generator" content="face identity unlearning course">'  # only pages that carry it are ours
COVER_WIDTH = 480  # pixels of a picture in the contents table
# Beside the documents and not in data/: a new measurement must not make `make run` run every notebook again.
MINUTES_FILE = REPO_ROOT / "docs" / "minutes.json"
MINUTES = re.compile(r"^Minutes: .*?(?= · |$)", re.MULTILINE)  # the claim in a notebook's first cell
WORDS_A_MINUTE, SECONDS_A_LINE, UNREAD = 200, 5, {"setup", "injected-parameters"}
NUMBER = re.compile(r"–|[-+−]?\d[\d.,]*(e[-+]\d+)? ?(%|±.*|\(.*\))?")  # a cell that is lined up at the right
STYLE_FILE = REPO_ROOT / "docs" / "site.css"


class PageRenderer(IPythonRenderer):
    """Markdown to HTML with formulas written as MathML, which browsers draw without a script."""

    def block_html(self, html: str) -> str:
        """Leave HTML as written unless it shows a picture: parsed alone, a fold would be closed at once."""
        return super().block_html(html) if "<img" in html else html

    def inline_math(self, body: str) -> str:
        """Render `$...$`."""
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        """Render `$$...$$`."""
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        r"""Render `\\begin{name}...\\end{name}`."""
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


class PageExporter(HTMLExporter):
    """nbconvert's plain template (no script, no style sheet from elsewhere) with our markdown."""

    @pass_context
    def markdown2html(self, context: dict, source: str) -> str:
        """Render one markdown cell; its attachments and local pictures become part of the page."""
        renderer = PageRenderer(
            escape=False,
            embed_images=True,
            exclude_anchor_links=True,
            attachments=context.get("cell", {}).get("attachments", {}),
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def mathml(formula: str, display: str) -> str:
    """Return a LaTeX formula as MathML ('inline' or 'block'), or as typed where a command is not understood."""
    typed = f"<code>{escape(formula.strip())}</code>"
    # environments the converter lacks or numbers read the same as align*
    known = re.sub(r"\{(aligned|align|gathered|gather|equation)\}", "{align*}", formula.strip())
    try:
        result = latex_to_mathml(known, display=display)
    except Exception:  # the converter's errors share no base class, and no formula may stop a page
        return typed
    return typed if re.search(r">\\[a-zA-Z]", result) else result


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy without what differs from run to run: progress bars, standard error, widget state, timings."""
    clean = nbformat.from_dict(notebook)
    clean.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    clean.cells = [tidy_cell(cell) for cell in clean.cells if "papermill-error-cell-tag" not in tags_of(cell)]
    clean.nbformat, clean.nbformat_minor = 4, 5
    return clean


def tidy_cell(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Strip timings from a cell's metadata, and progress bars and standard error from its outputs."""
    for key in ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled"):
        cell.metadata.pop(key, None)
    if not cell.metadata.get("tags", True):
        del cell.metadata["tags"]
    if cell.cell_type == "code":
        cell.outputs = [output for output in cell.outputs if not passing(output)]
        cell, _ = CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # text arrives in pieces of varying size
    return cell


def passing(output: nbformat.NotebookNode) -> bool:
    """Say whether an output is a progress bar or standard error, which no reader needs later."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def tags_of(cell: nbformat.NotebookNode) -> list[str]:
    """Return a cell's tags."""
    return cell.metadata.get("tags", [])


def title_of(notebook: nbformat.NotebookNode, fallback: str) -> str:
    """Return the first heading of a notebook, without markup."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = (re.search(r"^# +(.+)$", text, re.MULTILINE) for text in texts)
    return next((plain(heading[1]) for heading in found if heading), fallback)


def question_of(notebook: nbformat.NotebookNode, name: str) -> str:
    """Return the question a notebook answers: the course's, else the first in its opening cell, else none."""
    opening = notebook.cells[0].source if notebook.cells and notebook.cells[0].cell_type == "markdown" else ""
    lines = (line for line in opening.splitlines() if not line.startswith("#"))
    found = re.search(r"(?:^|(?<=[.!?:]\s))[^.!?]*\?", plain(" ".join(lines)))
    return QUESTIONS.get(name) or (found[0].strip() if found else "")


def plain(markdown: str) -> str:
    """Drop pictures, links and emphasis from a line of markdown."""
    without_pictures = re.sub(r"\[?!\[[^]]*]\([^)]*\)(?:]\([^)]*\))?", " ", markdown)
    without_links = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", without_pictures)
    return re.sub(r"\s+", " ", re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", without_links)).strip()


def picture_of(notebook: nbformat.NotebookNode) -> bytes:
    """Return a notebook's picture as PNG bytes: the cell tagged 'cover', else the last picture; or b''."""
    pictures = [(cell, png) for cell in notebook.cells for png in pngs_of(cell)]
    covers = [png for cell, png in pictures if "cover" in tags_of(cell)] or [png for _, png in pictures[-1:]]
    return base64.b64decode(covers[0]) if covers else b""


def cover_of(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook's picture as a small PNG data URI, or '' if it has none."""
    picture = picture_of(notebook)
    if not picture:
        return ""
    image = Image.open(io.BytesIO(picture))
    image.thumbnail((COVER_WIDTH, COVER_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pngs_of(cell: nbformat.NotebookNode) -> list[str]:
    """Return the base64 PNG outputs of a cell."""
    return [output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]


def reading_minutes(notebook: nbformat.NotebookNode) -> float:
    """Return words / 200 + lines of code x 5 seconds, in minutes, without the set-up cell and this very claim."""
    texts = [MINUTES.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    words = sum(len(plain(re.sub(r"<[^>]+>", " ", text)).split()) for text in texts)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not UNREAD & set(tags_of(cell))]
    lines = sum(bool(line.strip()) for cell in code for line in cell.source.splitlines())
    return words / WORDS_A_MINUTE + lines * SECONDS_A_LINE / 60


def running_seconds(path: Path = MINUTES_FILE) -> dict[str, float]:
    """Return the seconds each notebook took in the run that was stored, by name; empty if none was measured."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is not a record of minutes; delete it and run --minutes again.") from error


def minutes_text(notebook: nbformat.NotebookNode, seconds: float | None) -> str:
    """Return a notebook's minutes: those of reading, and those of running if they were measured."""
    run = "not measured here" if seconds is None else f"{max(1, round(seconds / 60))}"
    return f"reading {max(1, round(reading_minutes(notebook)))}, running {run}"


def body_of(notebook: nbformat.NotebookNode, folder: Path) -> str:
    """Return the HTML of a notebook's cells; `folder` is where its relative pictures lie."""
    exporter = PageExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    html, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(folder)}})
    return html


def offline_body(notebook: nbformat.NotebookNode, folder: Path, site: Path) -> str:
    """Return the HTML of a notebook's cells, which fetches nothing."""
    return offline(body_of(notebook, folder), folder, site)


def offline(html: str, folder: Path, site: Path) -> str:
    """Return a page that loads nothing from elsewhere, its links to notebooks turned into links to their pages."""
    soup = BeautifulSoup(html, "html.parser")
    for tag in soup.select("img, script, link, iframe, video, audio, source"):
        source = tag.get("src") or tag.get("href") or ""
        if re.match(r"(?:https?:)?//", source):
            tag.replace_with(tag.get("alt", ""))
    for link in soup.select("a[href]"):
        link["href"] = moved(link["href"], folder, site)
    for code in soup.select(".celltag_setup .input"):
        fold = code.wrap(soup.new_tag("details", attrs={"class": "setup"}))
        fold.insert(0, soup.new_tag("summary", string="Set-up: finds the course, or fetches it"))
    for table in soup.find_all("table"):
        readable(table)
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    return str(soup)


def readable(table: Tag) -> None:
    """Mark the column of names, which stays in sight when a wide table is moved, and the cells that are numbers."""
    columns = list(zip(*(row.find_all(["th", "td"]) for row in table.find_all("tr")), strict=False))
    heads = [column[0].get_text(strip=True) for column in columns]
    names = heads.index("method") if "method" in heads else 0
    for place, column in enumerate(columns):
        numbers = [bool(NUMBER.fullmatch(cell.get_text(strip=True))) for cell in column]
        for cell, number in zip(column, [any(numbers[1:]), *numbers[1:]], strict=True):
            cell["class"] = "name" if place == names else "number" if number else ""
            if cell.string:
                cell.string = cell.string.replace("± ", "±\N{NO-BREAK SPACE}")


def moved(href: str, folder: Path, site: Path) -> str:
    """Return a link written for a notebook in `folder` as it must read on a page in `site`."""
    path, mark, anchor = href.partition("#")
    if not path or re.match(r"[a-z]+:|//", href):
        return href
    target = Path(os.path.normpath(folder / path))
    lesson = target.suffix == ".ipynb" and ("/" not in path or target.parent.name == "notebooks")
    if lesson or (target.suffix == ".md" and target.parent.name == DOCS):
        return target.stem + ".html" + mark + anchor
    return os.path.relpath(folder / path, site) + mark + anchor


def page(title: str, body: str) -> str:
    """Return a whole HTML document with the course's style in it."""
    style = STYLE_FILE.read_text(encoding="utf-8") + HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'{MARK}\n<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def navigation(titles: dict[str, str], name: str, css: str = "") -> str:
    """Return the links to the previous page, the contents and the next page."""
    names = [None, *titles, None]
    place = names.index(name)
    before, after = names[place - 1], names[place + 1]
    left = f'<a rel="prev" href="{before}.html">← {escape(titles[before])}</a>' if before else "<span></span>"
    right = f'<a rel="next" href="{after}.html">{escape(titles[after])} →</a>' if after else "<span></span>"
    return f'<nav class="{css}">{left}<a href="index.html">Contents</a>{right}</nav>'


def contents(notebooks: dict[str, nbformat.NotebookNode], titles: dict[str, str]) -> str:
    """Return the contents table: each notebook's picture, title and question, and minutes."""
    rows, seconds = [], running_seconds()
    for name, notebook in notebooks.items():
        link, title, cover = f'<a href="{name}.html">', escape(titles[name]), cover_of(notebook)
        picture = f'{link}<img src="{cover}" alt="From {title}"></a>' if cover else ""
        text = f"{link}<strong>{title}</strong></a><br>{escape(question_of(notebook, name))}"
        rows.append(f"<tr><td>{picture}</td><td>{text}</td><td>{minutes_text(notebook, seconds.get(name))}</td></tr>")
    head = "<thead><tr><th></th><th>Notebook</th><th>Minutes</th></tr></thead>"
    return f'<table class="contents">{head}<tbody>\n' + "\n".join(rows) + "\n</tbody></table>"


def build_documents(documents: Sequence[Path], site: Path) -> dict[str, str]:
    """Write one page per Markdown file into `site` and return the titles by page name."""
    titles = {}
    for path in documents:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(path.read_text(encoding="utf-8"))])
        titles[path.stem] = title_of(notebook, path.stem)
        body = offline_body(notebook, path.parent, site)
        top = '<nav><span></span><a href="index.html">Contents</a><span></span></nav>'
        write(site / f"{path.stem}.html", page(titles[path.stem], top + body))
    return titles


def build_site(
    sources: dict[str, Path], site: Path, folder: Path, results: Table, documents: Sequence[Path] = (), jobs: int = 1
) -> Path:
    """Write a page per notebook and document into `site`, drop pages of what is gone, and return index.html.

    `sources` maps a notebook's name to the file whose outputs are shown, `folder` is where the notebooks live.
    """
    notebooks = {name: tidy(nbformat.read(path, as_version=4)) for name, path in sources.items()}
    titles = {name: title_of(notebook, name) for name, notebook in notebooks.items()}
    bodies = Parallel(n_jobs=jobs)(delayed(offline_body)(notebook, folder, site) for notebook in notebooks.values())
    for name, body in zip(notebooks, bodies, strict=True):
        top, bottom = navigation(titles, name), navigation(titles, name, "end")
        write(site / f"{name}.html", page(titles[name], top + body + bottom))
    table = offline(f"<h2>Results of the last run</h2>{results._repr_html_()}", site, site) if results else ""
    more = build_documents(documents, site)
    links = " · ".join(f'<a href="{name}.html">{escape(title)}</a>' for name, title in more.items())
    further = f"<p>Also: {links}</p>" if links else ""
    name = "Face identity unlearning: the course"
    write(site / "index.html", page(name, f"<h1>{name}</h1>" + contents(notebooks, titles) + further + table))
    for old in site.glob("*.html"):
        if old.stem not in {"index", *notebooks, *more} and is_ours(old):
            old.unlink()
    return site / "index.html"


def is_ours(page: Path) -> bool:
    """Say whether a page was written by the course: nothing else is overwritten or removed."""
    return page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")


def write(path: Path, text: str) -> None:
    """Write a page that is either whole or as it was; CourseError if somebody else's page has its name."""
    if path.is_file() and not is_ours(path):
        raise CourseError(f"{path} was not made by the course: move it away, or choose another folder with --build.")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
