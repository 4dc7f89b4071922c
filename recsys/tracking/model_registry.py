"""The model registry as a mirror: versions, tags and aliases brought into line with what was decided of nightly models.

The truth lies elsewhere, in the champion file, so that a promotion is one atomic write and needs no tracking server.
Here every difference from it is mended, as often as wanted and from wherever the last attempt was cut off.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from recsys.errors import BusyError, ServiceError
from recsys.locks import held_lock
from recsys.tracking import names
from recsys.tracking.store import TrackingStore

# What MLflow refuses in the name of a model, what would end a name in a search, and our own escape.
_REFUSED = re.compile(r"""[/:%'"\\]|^\.+""")
_WAIT_SECONDS = 30.0
_DECIDED = (names.TAG_DATE, names.TAG_DECISION, names.TAG_REASON, names.TAG_REPLACED_BY, names.TAG_ROLLED_BACK)

logger = logging.getLogger("recsys.tracking")


@dataclass(frozen=True)
class NightlyModel:
    """A nightly run's model and what became of it; each a tag of its version, empty where it does not apply.

    Attributes:
        artifact: its run's folder; no two models have the same.
        date: the first day that it has not seen.
        decision: "promoted" or "refused".
        replaced_by: the artifact that took its place.
        rolled_back: why its place was taken back.
    """

    artifact: str
    date: str
    decision: str
    reason: str
    replaced_by: str = ""
    rolled_back: str = ""

    def but(self, **changes: str) -> "NightlyModel":
        """The same model with other words."""
        return replace(self, **changes)

    @property
    def tags(self) -> dict[str, str]:
        """Of its version."""
        words = (self.date, self.decision, self.reason, self.replaced_by, self.rolled_back)
        return {names.TAG_ARTIFACT: self.artifact} | {
            name: word for name, word in zip(_DECIDED, words, strict=True) if word
        }


def registered_name(experiment: str, data: str) -> str:
    """What the models of one data set are called in the registry.

    >>> registered_name("online_retail", "online_retail"), registered_name("night/2", "shop")
    ('online_retail', 'night%2F2.shop')
    """
    name = data if experiment == data else f"{experiment}.{data}"
    return _REFUSED.sub(lambda match: "".join(f"%{ord(letter):02X}" for letter in match.group()), name)


def reconcile(
    store: TrackingStore,
    data: str,
    models: Sequence[NightlyModel],
    champion: str | None,
    challenger: str | None,
    spool_of: Callable[[str], str],
) -> bool:
    """Bring versions, tags and aliases into line; return whether they are.

    A model whose run has not reached the store yet gets its version when it has. A store that is away, or refuses, is
    told in one notice; the next call mends it.

    Args:
        data: the data set's name.
        champion, challenger: artifacts of the models that carry these aliases; None where none does.
        spool_of: artifact -> the `spool_id` of its run, empty where that is not known; asked where there is no version.
    """
    if not models:
        return True
    try:
        # Two at once would make one version twice.
        lock = store.spool_directory.parent / ".registry.lock"
        with held_lock(lock, f"The model registry of {data}", wait_seconds=_WAIT_SECONDS):
            return _Registry(store, data, spool_of).mend(models, champion, challenger)
    except (ServiceError, BusyError, MlflowException, OSError) as error:
        reason = str(error).split("\n")[0]
        logger.warning("the model registry is as it was and is mended by the next run (%s)", reason)
        return False


class _Registry:
    def __init__(self, store: TrackingStore, data: str, spool_of: Callable[[str], str]) -> None:
        self._client: MlflowClient = store.open()
        self._experiment = store.experiment_id(self._client)
        self._name = registered_name(store.experiment, data)
        self._spool_of = spool_of

    def mend(self, models: Sequence[NightlyModel], champion: str | None, challenger: str | None) -> bool:
        if not self._client.search_registered_models(f"name = '{self._name}'"):
            self._client.create_registered_model(self._name)
        found = self._versions()
        for model in models:
            if model.artifact not in found and (created := self._created(model)):
                found[model.artifact] = created
            if version := found.get(model.artifact):
                self._mend_tags(version, model.tags)
        aliases = {names.ALIAS_CHAMPION: champion, names.ALIAS_CHALLENGER: challenger}
        for alias, artifact in aliases.items():
            # A model without a version yet leaves the alias where it was: whoever loads by it still gets a model.
            if artifact is None or artifact in found:
                self._mend_alias(alias, found[artifact] if artifact else None)
        return all(model.artifact in found for model in models)

    def _versions(self) -> dict[str, ModelVersion]:
        found: dict[str, ModelVersion] = {}
        token: str | None = None
        while token is None or token:
            page = self._client.search_model_versions(f"name = '{self._name}'", max_results=200, page_token=token)
            found |= {each.tags[names.TAG_ARTIFACT]: each for each in page if names.TAG_ARTIFACT in each.tags}
            token = page.token or ""
        return found

    def _created(self, model: NightlyModel) -> ModelVersion | None:
        """A version of the model that its run logged; None where the store does not have that yet."""
        spool = self._spool_of(model.artifact)
        by_spool = f"tags.{names.TAG_SPOOL_ID} = '{spool}'"
        runs = self._client.search_runs([self._experiment], by_spool, max_results=1) if spool else []
        outputs = runs[0].outputs.model_outputs if runs and runs[0].outputs else []
        if not outputs:
            return None
        logged = self._client.get_logged_model(outputs[0].model_id)
        # Its place and not `models:/<id>`, which a SQLite store would look up in MLflow's global store. Its tags in the
        # same step, as it is found by them.
        return self._client.create_model_version(
            self._name,
            logged.artifact_location,
            run_id=runs[0].info.run_id,
            tags=model.tags,
            model_id=logged.model_id,
            await_creation_for=0,
        )

    def _mend_tags(self, version: ModelVersion, wanted: dict[str, str]) -> None:
        for name in _DECIDED:
            word, held = wanted.get(name), version.tags.get(name)
            if word is not None and word != held:
                self._client.set_model_version_tag(self._name, version.version, name, word)
            elif word is None and held is not None:
                self._client.delete_model_version_tag(self._name, version.version, name)

    def _mend_alias(self, alias: str, wanted: ModelVersion | None) -> None:
        held = self._client.get_registered_model(self._name).aliases.get(alias)
        if wanted is not None and str(held) != str(wanted.version):
            self._client.set_registered_model_alias(self._name, alias, wanted.version)
        elif wanted is None and held is not None:
            self._client.delete_registered_model_alias(self._name, alias)
