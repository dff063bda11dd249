"""How the schemas beside this file were obtained: read from the source of published wheels, nothing imported or run.

    pip download --no-deps trl==1.16.0 transformers==5.23.0      # each unpacked into a folder of its own
    python extract.py trl 1.16.0 trl/ transformers/
    python extract.py axolotl 0.19.0 axolotl/ transformers/      # transformers==5.16.1, which axolotl pins
    python extract.py llamafactory 0.9.5 llamafactory/ transformers/   # transformers==5.6.0, the newest that it allows
    python extract.py torchtune 0.6.1 torchtune/

An option is a field of the tool's dataclasses or pydantic models: its annotation, or its choices. torchtune's are the
keys that a recipe reads (required or optional), and the parameters of its components: <component>.<parameter>.
"""

import ast
import json
import sys
from pathlib import Path

TRL = ("SFTConfig", "_BaseConfig", "ModelConfig", "ScriptArguments", "DatasetMixtureConfig", "TrainingArguments")
PACKAGES = ("llama2", "llama3", "llama3_1", "llama3_2", "llama3_3", "mistral", "gemma", "gemma2", "qwen2_5")
RECIPES = ("lora_finetune_single_device", "full_finetune_single_device")


def classes(*folders):
    """Every class by name; the first folder's wins."""
    found = {}
    for file in (f for folder in folders for f in sorted(folder.rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, node)
    return found


def fields(node):
    """Annotation, or the choices in its metadata, of each public field."""
    found = {}
    for line in node.body:
        settable = isinstance(line, ast.AnnAssign) and not line.target.id.startswith("_")
        if settable and "init=False" not in ast.unparse(line):
            choices = [
                v
                for d in ast.walk(line)
                if isinstance(d, ast.Dict)
                for k, v in zip(d.keys, d.values, strict=True)
                if getattr(k, "value", 0) == "choices"
            ]
            listed = choices and isinstance(choices[0], ast.List)
            found[line.target.id] = ast.literal_eval(choices[0]) if listed else ast.unparse(line.annotation)
    return found


def members(node):
    """Values of an enumeration."""
    return [
        line.value.value for line in node.body if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
    ]


def transformers_words(known, optimizer, scheduler):
    return {optimizer: members(known["OptimizerNames"]), scheduler: members(known["SchedulerType"])}


def trl(tool, transformers):
    known = classes(tool / "trl", transformers / "transformers")
    options = {name: kind for c in reversed(TRL) for name, kind in fields(known[c]).items()}
    return options | transformers_words(known, "optim", "lr_scheduler_type")


def llamafactory(tool, transformers):
    files = sorted((tool / "llamafactory/hparams").glob("*.py"))
    nodes = [
        n
        for f in files
        if f.stem != "evaluation_args"
        for n in ast.parse(f.read_text(encoding="utf-8")).body
        if isinstance(n, ast.ClassDef)
    ]
    known = classes(transformers / "transformers")
    options = {
        name: kind
        for node in (known["TrainingArguments"], known["Seq2SeqTrainingArguments"], *nodes)
        for name, kind in fields(node).items()
    }
    return options | transformers_words(known, "optim", "lr_scheduler_type")


def axolotl(tool, transformers):
    known = classes(tool / "axolotl/utils/schemas", transformers / "transformers")

    def with_bases(name):
        bases = [b.id for b in known[name].bases if isinstance(b, ast.Name) and b.id in known] if name in known else []
        return {k: v for b in reversed(bases) for k, v in with_bases(b).items()} | fields(known[name])

    options = with_bases("AxolotlInputConfig")
    options |= {f"datasets.{name}": kind for name, kind in with_bases("SFTDataset").items()}
    options |= {f"datasets.type.{name}": kind for name, kind in with_bases("UserDefinedPrompterType").items()}
    return options | transformers_words(known, "optimizer", "lr_scheduler")


def torchtune(tool):
    options = {}
    for recipe in RECIPES:
        tree = ast.parse((tool / f"recipes/{recipe}.py").read_text(encoding="utf-8"))
        required = {
            n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "cfg" and n.attr != "get"
        }
        called = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "cfg.get"]
        optional = {n.args[0].value for n in called if isinstance(n.args[0], ast.Constant)}
        options |= {f"{recipe}.{key}": "optional" for key in sorted(optional - required)} | {
            f"{recipe}.{key}": "required" for key in sorted(required)
        }
    for package in PACKAGES:
        file = tool / f"torchtune/models/{package}/_model_builders.py"
        options |= components(file, f"torchtune.models.{package}") | aliases(
            file, f"torchtune.models.{package}", options
        )
    options |= components(tool / "torchtune/datasets/_instruct.py", "torchtune.datasets")
    options |= components(tool / "torchtune/training/lr_schedulers.py", "torchtune.training.lr_schedulers")
    known = classes(tool / "torchtune/training", tool / "torchtune/modules/loss")
    for name, package in {
        "FullModelHFCheckpointer": "training",
        "DiskLogger": "training.metric_logging",
        "CEWithChunkedOutputLoss": "modules.loss",
    }.items():
        start = next(n for n in known[name].body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        options |= parameters(start, f"torchtune.{package}.{name}")
    types = [line.target.id for line in known["ModelType"].body if isinstance(line, ast.AnnAssign)]
    return options | {"torchtune.training.FullModelHFCheckpointer.model_type": types}


def components(file, package):
    """Parameters of a file's public functions that make models, tokenizers, datasets and schedules."""
    nodes = [
        n
        for n in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
    ]
    return {key: kind for n in nodes for key, kind in parameters(n, f"{package}.{n.name}").items()}


def aliases(file, package, known):
    """Builders that are another package's by another name: Llama 3.3 is Llama 3.1."""
    found = {}
    for line in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and isinstance(line.value, ast.Name):
            for key, kind in known.items():
                start, same, rest = key.partition(f".{line.value.id}")
                if same and rest[:1] in (".", "") and start.startswith("torchtune.models."):
                    found[f"{package}.{line.targets[0].id}{rest}"] = kind
    return found


def parameters(node, name):
    given = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
    found = {f"{name}.{a.arg}": ast.unparse(a.annotation) if a.annotation else "Any" for a in given}
    if node.args.kwarg:
        found[f"{name}.**"] = "Any"
    return found or {name: "no parameters"}


if __name__ == "__main__":
    tool, version, *folders = sys.argv[1:]
    versions = [tool, version]
    if len(folders) > 1:
        (info,) = Path(folders[1]).glob("transformers-*.dist-info")
        versions.append(info.name.removesuffix(".dist-info"))
    found = {"trl": trl, "axolotl": axolotl, "llamafactory": llamafactory, "torchtune": torchtune}[tool](
        *map(Path, folders)
    )
    source = f"https://pypi.org/project/{tool}/{version}/" + (f" with {versions[2]}" if versions[2:] else "")
    facts = {"tool": tool, "version": version, "source": source, "options": dict(sorted(found.items()))}
    Path(__file__).with_name(f"{tool}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
