"""Finds calls in our own source that run what they read, or that write where an archive says. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

# modules whose reading runs code, or that write where an archive says
BANNED_IMPORTS = frozenset(
    {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "jsonpickle",
     "xmlrpc", "imp", "code", "runpy"}
)  # fmt: skip
BANNED_NAMES = frozenset({"eval", "exec", "compile", "__import__"})
BANNED_METHODS = frozenset(
    {"extractall", "extract", "unpack_archive", "read_pickle", "to_pickle", "import_module", "mktemp", "popen",
     "enable_load_extension"}
)  # fmt: skip
# call -> keywords that it must have
NEEDS: Mapping[str, frozenset[str]] = {
    "torch.load": frozenset({"weights_only"}),
    "np.load": frozenset({"allow_pickle"}),
    "numpy.load": frozenset({"allow_pickle"}),
}
# keyword -> the one value that it may have
KEYWORDS: Mapping[str, object] = {
    "shell": False, "trust_remote_code": False, "allow_pickle": False, "weights_only": True, "use_safetensors": True,
    "safe_serialization": True,
}  # fmt: skip


def findings(source: str) -> Iterator[tuple[int, str]]:
    """Line and words for everything in a module that must not be there."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from ((node.lineno, f"import {one.name}") for one in node.names if _banned(one.name))
            case ast.ImportFrom():
                if _banned(node.module or "") or node.module == "yaml":
                    yield node.lineno, f"from {node.module}"
            case ast.Call():
                yield from ((node.lineno, words) for words in _call(node))


def _banned(module: str) -> bool:
    return module.partition(".")[0] in BANNED_IMPORTS


def _call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    last = name.rpartition(".")[2]
    given = {one.arg: one.value for one in node.keywords if one.arg}
    if isinstance(node.func, ast.Name) and name in BANNED_NAMES:
        yield f"{name}(...)"
    if last in BANNED_METHODS or name in ("os.system", "torch.hub.load"):
        yield f"{name}(...)"
    if name.startswith("yaml.") and "load" in last and not last.startswith("safe_load"):
        yield f"{name}(...)"
    needed = NEEDS.get(name, frozenset())
    for keyword, wanted in KEYWORDS.items():
        if keyword in given and not _is(given[keyword], wanted):
            yield f"{name}({keyword}={ast.unparse(given[keyword])})"
        elif keyword in needed and keyword not in given:
            yield f"{name}(...) without {keyword}={wanted}"
    if (
        name.startswith("AutoModel")
        and last == "from_pretrained"
        and not {"gguf_file", "use_safetensors"} & given.keys()
    ):
        yield f"{name}(...) without use_safetensors=True"


def _is(value: ast.expr, wanted: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted
