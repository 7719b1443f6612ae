"""From a method's name to what trains: spec, preset, options, base trainer and SAE. Loads no torch until `build`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .artefacts.key import artefact_key, source_sha256
from .errors import ConfigError, UnknownNameError
from .interfaces.specs import Option, Preset, SAESpec, TrainerSpec
from .plugins import Catalogue, load_target

if TYPE_CHECKING:
    from .interfaces.sae import SAE
    from .interfaces.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method resolved against what is installed: everything its training depends on but L0 and seed."""

    spec: TrainerSpec
    base: TrainerSpec | None
    sae: SAESpec
    preset: str
    options: Mapping[str, Option]
    """Chosen options, own and base's together: preset < caller."""
    base_options: Mapping[str, Option] = field(default_factory=dict)
    """What the suite sets for the base trainer."""
    distribution: str
    version: str

    @property
    def label(self) -> str:
        """`name` or `name@preset`."""
        return f"{self.spec.name}@{self.preset}" if self.preset else self.spec.name

    @property
    def needs(self) -> frozenset[str]:
        """What the batch must carry, for this trainer and its base."""
        return self.spec.needs | (self.base.needs if self.base else frozenset())

    @property
    def sparsity(self) -> str:
        """How L0 is set: `k`, `coefficient` or `none`."""
        return self.base.sparsity if self.base else self.spec.sparsity

    @property
    def chosen_preset(self) -> Preset:
        """The preset, or an empty one."""
        return self.spec.presets[self.preset] if self.preset else Preset()

    @property
    def ranked(self) -> bool:
        """Whether the method may be ranked: not a control, not a faulty or control preset."""
        return not (self.spec.control or self.chosen_preset.faulty or self.chosen_preset.control)

    def code_sha256(self) -> str:
        """Hash of the source files of trainer, base and SAE."""
        targets = [self.spec.target, self.sae.target, *([self.base.target] if self.base else [])]
        return artefact_key("code", {"sources": sorted({_method_source(t) for t in targets})}, 1)


def _method_source(target: str) -> str:
    """Hash of the code behind a target; of our own package only what can change a trained SAE."""
    if target.startswith("harness."):
        return source_sha256(target, only=("builtin/saes", "builtin/trainers", "builtin/controls"))
    return source_sha256(target)


def resolve_method(
    catalogue: Catalogue,
    name: str,
    *,
    suite_options: Mapping[str, Mapping[str, Option]] | None = None,
    overrides: Mapping[str, Option] | None = None,
) -> Method:
    """The method called `name` or `name@preset`.

    Raises:
        UnknownNameError: no such method, preset or base.
        NameClashError: two distributions provide it.
    """
    suite_options = suite_options or {}
    bare, _, preset = name.partition("@")
    provided = catalogue.trainer(bare)
    spec = provided.spec
    if preset and preset not in spec.presets:
        raise UnknownNameError.of(f"preset of {bare}", preset, spec.presets)
    options: dict[str, Option] = dict(suite_options.get(spec.name, {}))
    options.update(spec.presets[preset].options if preset else {})
    options.update(overrides or {})
    base = _base(catalogue, spec, options)
    sae = catalogue.sae((base or spec).sae).spec
    return Method(
        spec=spec,
        base=base,
        sae=sae,
        preset=preset,
        options=options,
        base_options=dict(suite_options.get(base.name, {})) if base else {},
        distribution=provided.distribution,
        version=provided.version,
    )


def _base(catalogue: Catalogue, spec: TrainerSpec, options: Mapping[str, Option]) -> TrainerSpec | None:
    if not spec.extends:
        return None
    chosen = options.get("base", spec.extends[0])
    if chosen not in spec.extends:
        raise UnknownNameError.of(f"base of {spec.name}", str(chosen), spec.extends)
    return catalogue.trainer(str(chosen)).spec


def check_options(method: Method) -> None:
    """Refuse options that do not fit, before anything is captured or trained for them.

    Raises:
        ConfigError: an option is unknown, of the wrong type or out of its range.
    """
    _trainer(method)


def build(method: Method, *, d_in: int, d_sae: int, target_l0: int | None) -> tuple[Trainer, SAE]:
    """The trainer and an SAE whose weights are not yet filled.

    Raises:
        ConfigError: an option is unknown, of the wrong type or out of its range.
    """
    from .interfaces.sae import SAEConfig

    trainer = _trainer(method)
    sae_options = trainer.sae_options(target_l0)
    config = SAEConfig(architecture=method.sae.name, d_in=d_in, d_sae=d_sae, options=sae_options)
    return trainer, load_target(method.sae.target)(config)


_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "lr": ("above 0", lambda x: x > 0),
    "beta1": ("in [0, 1)", lambda x: 0 <= x < 1),
    "beta2": ("in [0, 1)", lambda x: 0 <= x < 1),
    "eps": ("above 0", lambda x: x > 0),
    "grad_clip": ("at least 0", lambda x: x >= 0),
    "warmup_fraction": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "decay_fraction": ("in [0, 1]", lambda x: 0 <= x <= 1),
}
"""Of the optimiser's options, which every trainer has or extends one that has. A trainer checks its own by itself."""


def _trainer(method: Method) -> Trainer:
    """The trainer; its own options and the optimiser's are within their ranges."""
    trainer = _built(method)
    optimiser = trainer.optimiser_options()
    for name, (allowed, fits) in _RANGES.items():
        value = getattr(optimiser, name, None)  # a control that takes no step may have none
        if value is not None and not fits(value):
            raise ConfigError(f"{method.label}: option {name} must be {allowed}, got {value:g}.")
    return trainer


def _built(method: Method) -> Trainer:
    trainer_class = load_target(method.spec.target)
    if method.base is None:
        return trainer_class(_options(trainer_class, method.options, method.label), None)
    own = {k: v for k, v in method.options.items() if k != "base"}
    base_class = load_target(method.base.target)
    own_names = {f.name for f in dataclasses.fields(trainer_class.options_type)}
    for_base = {**method.base_options, **{k: v for k, v in own.items() if k not in own_names}}
    label = f"{method.label} on {method.base.name}"
    base_options = _options(base_class, for_base, label, also=own_names | {"base"})
    own = {k: v for k, v in own.items() if k in own_names}
    return trainer_class(_options(trainer_class, own, label), base_class(base_options))


def _options(
    trainer_class: Any, values: Mapping[str, Option], label: str, *, also: Collection[str] = frozenset()
) -> Any:
    """The trainer's options object; `also` are names allowed elsewhere, to be told with its own."""
    fields = {f.name: f for f in dataclasses.fields(trainer_class.options_type)}
    for name, value in values.items():
        if name not in fields:
            allowed = ", ".join(sorted({*fields, *also}))
            raise ConfigError(f"{label}: unknown option {name!r}; allowed are {allowed}.")
        default = fields[name].default
        if default is dataclasses.MISSING or default is None:
            continue
        if not _fits(value, default):
            raise ConfigError(f"{label}: option {name} must be of type {type(default).__name__}, got {value!r}.")
    numbers = {k: float(v) if _is_float(fields[k].default) and v is not None else v for k, v in values.items()}
    return trainer_class.options_type(**numbers)


def _is_float(default: object) -> bool:
    return isinstance(default, float)


def _fits(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))


def effective_options(trainer: Trainer, sae: SAE) -> dict[str, Option]:
    """Every hyperparameter as read off the objects that were used: own, `base.*` and `sae.*`."""
    found: dict[str, Option] = {}
    prefix, current = "", trainer
    while current is not None:
        for f in dataclasses.fields(current.options):
            found[f"{prefix}{f.name}"] = getattr(current.options, f.name)
        prefix, current = f"{prefix}base.", current.base
    found.update({f"sae.{name}": value for name, value in sae.config.options.items()})
    return found
