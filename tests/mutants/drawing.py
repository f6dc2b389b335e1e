"""Small mistakes drawn at random from the syntax trees of a wing; whether one changes anything, a reader must see."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator

from utils.settings import REPO_ROOT

from .planting import Mutant

WINGS = "retrieval", "unlearning", "audit"
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
SWAPS |= {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SWAPS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And}
SWAPS |= {ast.BitAnd: ast.BitOr, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv}
NAMES = (  # taken for one another: pools, parts, scores, and what gathers numbers
    ("forget", "retain", "unseen"),
    ("retain_train", "forget", "trained"),
    ("query", "gallery", "train"),
    ("r1", "r5", "map"),
    ("mean_cosine", "nearest_cosine"),
    ("mean_cosines", "nearest_cosines"),
    ("mean", "sum"),
    ("max", "min"),
    ("amax", "amin"),
    ("argmax", "argmin"),
    ("any", "all"),
)
# Not about numbers: sentences, checks that only ever raise, and where something runs.
SILENT = set("title question source caveat notebook grid full desc progress enabled strict device".split())
LOOSE = ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Compare | ast.IfExp


def others(name: object) -> list[str]:
    """Return the names that a name can be taken for."""
    return [other for group in NAMES if name in group for other in group if other != name]


def changed(node: ast.AST, **fields: object) -> str:
    """Return the text of a node with some fields exchanged."""
    own = {name: getattr(node, name, None) for name in node._fields}
    return ast.unparse(type(node)(**own | fields))


def swapped(items: list, i: int) -> list:
    """Return a list with items i and i + 1 exchanged."""
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def mistakes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for every mistake that can stand in the place of a node."""
    match node:
        case ast.BinOp():
            if type(node.op) in SWAPS:
                yield "operator", changed(node, op=SWAPS[type(node.op)]())
            if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow):
                yield "dropped term or factor", ast.unparse(node.left)
            if isinstance(node.op, ast.Add | ast.Mult):
                yield "dropped term or factor", ast.unparse(node.right)
        case ast.BoolOp():
            yield "operator", changed(node, op=SWAPS[type(node.op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield "comparison", changed(node, ops=[SWAPS[type(op)]()])
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield "dropped sign", ast.unparse(node.operand)
        case ast.IfExp():
            yield "condition", changed(node, body=node.orelse, orelse=node.body)
        case ast.Constant(value=bool() as value):
            yield "constant", str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", repr(value + 1 if isinstance(value, int) else 2 * value or 1.0)
        case ast.Constant(value=str() as value):
            yield from (("name", repr(other)) for other in others(value))
        case ast.Attribute():
            yield from (("name", changed(node, attr=other)) for other in others(node.attr))
        case ast.Call():
            fixed = [isinstance(argument, ast.Starred) for argument in node.args]
            for i in range(len(node.args) - 1):
                if not (fixed[i] or fixed[i + 1] or ast.unparse(node.func) in ("min", "max")):
                    yield "exchanged arguments", changed(node, args=swapped(node.args, i))
            for i, keyword in enumerate(node.keywords):
                if keyword.arg not in SILENT | {None}:
                    yield "dropped keyword", changed(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
            names, values = [k.arg for k in node.keywords], [k.value for k in node.keywords]
            for i in range(len(names) - 1):
                mixed = [ast.keyword(*pair) for pair in zip(names, swapped(values, i), strict=True)]
                if not SILENT & {*names[i : i + 2]}:
                    yield "exchanged keyword values", changed(node, keywords=mixed)


def places(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions below a node that compute: no annotations, no sentences, nothing that is raised."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            silent = isinstance(child, ast.keyword) and child.arg in SILENT
            if isinstance(child, ast.AST) and not silent and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield child
                yield from places(child)


def in_lines(source: str, node: ast.AST, text: str) -> tuple[str, str]:
    """Return the node's lines as they are and with the text instead, with lines before until they occur only once."""
    lines = source.encode().splitlines(keepends=True)
    text = f"({text})" if isinstance(ast.parse(text, mode="eval").body, LOOSE) else text
    first, last = node.lineno - 1, node.end_lineno
    before, after = lines[first][: node.col_offset], lines[last - 1][node.end_col_offset :]
    old, new = b"".join(lines[first:last]), before + text.encode() + after
    while source.encode().count(old) > 1:
        first -= 1
        old, new = lines[first] + old, lines[first] + new
    return old.decode(), new.decode()


def tests_of(file: str) -> str:
    """Return the test files of a room's wing, those named after the room first."""
    _, wing, *_, room = file.removesuffix(".py").split("/")
    found = sorted(path.name for path in (REPO_ROOT / "tests" / wing).glob("test_*.py"))
    return " ".join(f"tests/{wing}/{name}" for name in sorted(found, key=lambda name: room not in name))


def draw(count: int, seed: int, wings: Iterable[str] = ()) -> list[Mutant]:
    """Return mistakes drawn at random from the rooms of some wings, every kind as often as another."""
    kinds: dict[str, list[tuple]] = defaultdict(list)
    for wing in wings or WINGS:
        for path in sorted((REPO_ROOT / "utils" / wing).rglob("*.py")):
            for node in places(ast.parse(path.read_text(encoding="utf-8"))):
                for kind, text in mistakes(node):
                    if text != ast.unparse(node):
                        kinds[kind].append((path, node, text, kind))
    chance = random.Random(seed)
    for found in kinds.values():
        chance.shuffle(found)
    drawn = []
    while len(drawn) < count and (left := [kind for kind in sorted(kinds) if kinds[kind]]):
        path, node, text, kind = kinds[chance.choice(left)].pop()
        file = path.relative_to(REPO_ROOT).as_posix()
        drawn.append(Mutant(file, *in_lines(path.read_text(encoding="utf-8"), node, text), tests_of(file), kind))
    return drawn
