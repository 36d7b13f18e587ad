"""Finds every TensorRT name and call in a Python file and says which a version of the API does not have.

Follows values through a function as far as plain reading goes: ``trt.Builder(logger)`` gives a Builder, its
``create_network`` an INetworkDefinition; parameters are what their annotations say. What cannot be followed is what it
is called: ``trt`` is the module, ``config`` an IBuilderConfig, ``self._context`` an IExecutionContext, unless they are
annotated as something else. Of what is called otherwise, a member that only some versions have is still told. A name
that the same function asks ``hasattr`` for may be missing, and so may what only versions with that name have. Imports
nothing of the product.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.conformance.table import Names, load_table

_MODULES = {"tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings"}
_MODULE_NAMES = {"trt", "_trt", *_MODULES}
_CALLED = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "timing": "ITimingCache",
}


@dataclass(frozen=True)
class Value:
    """What an expression is known to be: the module (""), a class, an object of a class, or a function."""

    kind: str  # "module", "class", "object", "function", or "foreign": something that is not TensorRT's
    name: str


_FOREIGN = Value("foreign", "")


@dataclass
class Report:
    """What was found in one file."""

    used: set[str] = field(default_factory=set)  # full names: Builder, Builder.create_network, BuilderFlag.FP16
    problems: list[str] = field(default_factory=list)


def check_source(source: str, names: Names) -> Report:
    """Compare what ``source`` uses of TensorRT with ``names``."""
    tree = ast.parse(source)
    report = Report()
    scope = _Scope(names, report, {})
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            scope.returns[node.name] = scope.annotated(node.returns)
    scope.run(tree.body)
    return report


@cache
def _telling_members() -> Mapping[str, frozenset[str]]:
    """Members that tell a version, with the versions in which some class has them.

    Those are members of the oldest version that went, and methods that came later, but for names such as ``write``,
    which Python's own objects have; properties that came later have names such as ``block_size``, which any may have.
    """
    oldest = next(iter(load_table()))
    found = {
        path.rpartition(".")[2]
        for version, names in load_table().items()
        for path, entry in names.entries.items()
        if "." in path and ("call" in entry or version == oldest)
    }
    python_has = {name for kind in (dict, list, set, bytes, io.FileIO, Path) for name in dir(kind)}
    return {m: v for m, v in _versions_with().items() if m in found - python_has and len(v) < len(load_table())}


@cache
def _versions_with() -> Mapping[str, frozenset[str]]:
    """The versions in which anything has a name."""
    found: dict[str, set[str]] = {}
    for version, names in load_table().items():
        for path in names.entries:
            found.setdefault(path.rpartition(".")[2], set()).add(version)
    return {name: frozenset(versions) for name, versions in found.items()}


class _Scope:
    """One function, class or module being read, with what its names are known to be."""

    def __init__(self, names: Names, report: Report, values: dict[str, Value | None]) -> None:
        self.names = names
        self.report = report
        self.values = values
        self.returns: dict[str, Value | None] = {}
        self.optional: set[str] = set()

    # Statements

    def run(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _MODULES:
                    self.values[alias.asname or alias.name] = Value("module", "")
        elif isinstance(node, ast.ImportFrom):
            if node.module in _MODULES:
                for alias in node.names:
                    self.values[alias.asname or alias.name] = self.member(Value("module", ""), alias.name, node)
        elif isinstance(node, ast.ClassDef):
            self.read_class(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.read_function(node, {})
        elif isinstance(node, ast.Assign):
            value = self.evaluate(node.value)
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for element, part in zip(target.elts, node.value.elts, strict=False):
                        self.bind(element, self.evaluate(part))
                else:
                    self.bind(target, value)
        elif isinstance(node, ast.AnnAssign):
            value = self.evaluate(node.value) if node.value else None
            self.bind(node.target, self.annotated(node.annotation) or value)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.evaluate(node.iter)
            self.bind(node.target, _FOREIGN)
            self.run([*node.body, *node.orelse])
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                value = self.evaluate(item.context_expr)
                if item.optional_vars is not None:
                    self.bind(item.optional_vars, value)
            self.run(node.body)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    self.statement(child)
                elif isinstance(child, ast.ExceptHandler):
                    self.run(child.body)
                elif isinstance(child, ast.expr):
                    self.evaluate(child)

    def read_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, own: Mapping[str, Value | None]) -> _Scope:
        inner = _Scope(self.names, self.report, {**self.values, **own})
        inner.returns = self.returns
        inner.optional = self.optional | _optional_in(node)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            inner.values[argument.arg] = None if argument.annotation is None else self.annotated(argument.annotation)
        inner.run(node.body)
        return inner

    def read_class(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            self.evaluate(base)
        methods = [child for child in node.body if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))]
        own: dict[str, Value | None] = {f"self.{method.name}": _FOREIGN for method in methods}
        for child in node.body:
            if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                own[f"self.{child.target.id}"] = self.annotated(child.annotation)
            elif child not in methods:
                self.statement(child)
        for method in sorted(methods, key=lambda method: method.name != "__init__"):  # it says what self has
            inner = self.read_function(method, own)
            own.update({name: value for name, value in inner.values.items() if name.startswith("self.") and value})

    def bind(self, target: ast.expr, value: Value | None) -> None:
        if isinstance(target, ast.Name):
            self.values[target.id] = value
        elif isinstance(target, ast.Attribute):
            owner = self.evaluate(target.value)
            if owner is not None and owner.kind == "object":
                self.member(owner, target.attr, target)
                self.check_writable(owner, target)
            elif _dotted(target).startswith("self."):
                self.values[_dotted(target)] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self.bind(element, _FOREIGN if value is _FOREIGN else None)

    # Expressions

    def evaluate(self, node: ast.expr) -> Value | None:
        if isinstance(node, ast.Name):
            return self.values.get(node.id) or self.called(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.IfExp):
            self.evaluate(node.test)
            then, otherwise = self.evaluate(node.body), self.evaluate(node.orelse)
            return then or otherwise
        if isinstance(node, ast.NamedExpr):
            value = self.evaluate(node.value)
            self.bind(node.target, value)
            return value
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.evaluate(child)
            elif isinstance(child, ast.comprehension):
                self.bind(child.target, _FOREIGN)
                for expression in (child.iter, *child.ifs):
                    self.evaluate(expression)
        return None

    def attribute(self, node: ast.Attribute) -> Value | None:
        if (known := self.values.get(_dotted(node)) or self.called(_dotted(node))) is not None:
            return known
        if node.attr in _MODULE_NAMES:
            return Value("module", "")
        owner = self.evaluate(node.value)
        if owner is not None:
            return None if owner is _FOREIGN else self.member(owner, node.attr, node)
        versions = _telling_members().get(node.attr)
        if versions is not None and self.names.version not in versions and node.attr not in self.optional:
            self.complain(node, f"no class has a member {node.attr}")
        return None

    def call(self, node: ast.Call) -> Value | None:
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        for argument in arguments:
            self.evaluate(argument.value if isinstance(argument, ast.Starred) else argument)
        if isinstance(node.func, ast.Name) and node.func.id in self.returns:
            return self.returns[node.func.id]
        function = self.evaluate(node.func)
        if function is None or function.kind not in ("class", "function"):
            return None
        signatures = self.names.signatures(function.name)
        is_unpacked = any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords)
        keywords = [keyword.arg or "" for keyword in node.keywords]
        if signatures and not is_unpacked and not any(s.accepts(len(node.args), keywords) for s in signatures):
            given = ", ".join([*("_" for _ in node.args), *(f"{name}=" for name in keywords)])
            self.complain(node, f"{function.name} takes no ({given})")
        if function.kind == "class":
            return Value("object", function.name)
        return self.typed(signatures[0].returns) if signatures else None

    def member(self, owner: Value, name: str, node: ast.stmt | ast.expr) -> Value | None:
        """What ``owner.name`` is; a complaint where it is nothing."""
        if owner.kind == "function" or name.startswith("__"):
            return None
        found = self.names.member(owner.name, name)
        if found is None:
            if name not in self.optional:
                self.complain(node, f"there is no {owner.name + '.' if owner.name else ''}{name}")
            return None
        path, entry = found
        self.report.used.add(path)
        if "bases" in entry:
            return Value("class", path)
        return Value("function", path) if "call" in entry else self.typed(entry["is"])

    def check_writable(self, owner: Value, node: ast.Attribute) -> None:
        found = self.names.member(owner.name, node.attr)
        if found is not None and ("call" in found[1] or found[1].get("read_only")):
            self.complain(node, f"{found[0]} cannot be assigned to")

    def called(self, name: str) -> Value | None:
        """What something that could not be followed is by its name, ``x`` or ``self._x``."""
        noun = name.removeprefix("self.").removeprefix("_")
        if noun in _MODULE_NAMES:
            return Value("module", "")
        return self.typed(_CALLED.get(noun, ""))

    def annotated(self, node: ast.expr) -> Value | None:
        """What an annotation such as ``trt.ICudaEngine`` or ``"trt.ICudaEngine | None"`` says; of ``Any``, None."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.annotated(ast.parse(node.value, mode="eval").body)
        if isinstance(node, ast.BinOp):  # X | None
            return self.annotated(node.left)
        found = self.evaluate(node) if isinstance(node, (ast.Attribute, ast.Name)) else None
        if found is not None and found.kind == "class":
            return Value("object", found.name)
        return None if ast.unparse(node) == "Any" else _FOREIGN

    def typed(self, name: str) -> Value | None:
        return Value("object", name) if self.names.is_class(name) else None

    def complain(self, node: ast.stmt | ast.expr, what: str) -> None:
        self.report.problems.append(f"line {node.lineno}: TensorRT {self.names.version}: {what}")


def _optional_in(function: ast.AST) -> set[str]:
    """Names that a function may use though a version lacks them."""
    asked = set(_asked_for(function))
    partial = [found for name in asked if len(found := _versions_with().get(name, frozenset())) < len(load_table())]
    return asked | {name for name, versions in _versions_with().items() if any(versions <= found for found in partial)}


def _asked_for(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        is_question = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"
        if is_question and isinstance(node, ast.Call) and isinstance(node.args[1], ast.Constant):
            yield str(node.args[1].value)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"
