"""JobOperator: one operator that runs a job of ours as a process of this machine or as a pod.

    JobOperator(
        task_id="train",
        module="llmjobs.training.train",
        config=TrainConfig(...),                                    # validated when the DAG is parsed
        overrides={"dataset.version": "{{ ti.xcom_pull(...) }}"},   # rendered and validated when the task runs
        form=True,                                                  # takes the trigger form's values first
        choices={"dataset": {"a": Dataset(...)}},                   # sections that the form picks by name
        memory_gib=16, cpus=4, gpus=1,
    )

Where it runs is Airflow's ``[nightshift] runner``, read when the task executes. Either way the pod is rendered;
``local`` runs the command of that very pod as a process. What a failure leads to: `nightshift.failures`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from kubernetes.client import models as k8s

from llmjobs.contracts import environment, errors
from llmjobs.contracts.base import JobConfig
from nightshift import pod_spec, settings
from nightshift.code_version import code_version
from nightshift.failures import Action, BadConfig, Ended, JobFailed, ended_pod, failure_of
from nightshift.lineage import lineage_of
from nightshift.links import LINKS, SENTENCE
from nightshift.params import chosen_values, form_values
from nightshift.runners import node_pods, pods
from nightshift.runners.local import JobKey, LocalRunner
from nightshift.storage import own_secrets, storage_options

_RELAUNCHED = "relaunched"


class JobOperator(KubernetesPodOperator):
    """Run ``python -m <module>`` with one typed config, and push its result as XCom.

    Args:
        module: The job's module.
        config: Its config. Jinja never touches it, so chat templates pass unharmed.
        overrides: Fields that are known only when the task runs: dotted paths or nested mappings, templated,
            merged into the config and validated again by its class.
        form: Whether the run's params, whose keys are dotted paths of the config, are merged first.
        choices: Field -> name -> section: the form gives the name, the job gets the section.
        memory_gib: Memory of the container, in GiB.
        cpus: Cores asked for, and the job's number of threads.
        gpus: Whole NVIDIA GPUs.
        spot: Whether the pod may run on capacity that can be taken away.
        resumable: Whether the job leaves checkpoints in a working folder and goes on from them: in pods the folder is
            on the claim of ``[nightshift] work_claim``. Such a job alone is spread over ``dist.nodes`` pods.
        relaunches: How often one try starts an interrupted job (exit 75) again; default ``[nightshift] relaunches``.
        **kwargs: Anything that `KubernetesPodOperator` takes; it wins over what we would have chosen.
    """

    # `config` is there to be seen: on the page of a task, and in the DAG's version. Jinja renders text and
    # containers, and leaves a pydantic model as it is.
    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "config", "overrides")
    template_fields_renderers = {**KubernetesPodOperator.template_fields_renderers, "overrides": "json"}  # noqa: RUF012  as in the base class
    ui_color = "#dfe7fd"
    operator_extra_links = LINKS

    def __init__(
        self,
        *,
        module: str,
        config: JobConfig,
        overrides: Mapping[str, Any] | None = None,
        form: bool = False,
        choices: Mapping[str, Mapping[str, JobConfig]] | None = None,
        memory_gib: float = 2.0,
        cpus: float = 1.0,
        gpus: int = 0,
        spot: bool = False,
        resumable: bool = False,
        relaunches: int | None = None,
        **kwargs: Any,
    ) -> None:
        chosen = pod_spec.defaults(
            module=module, memory_gib=memory_gib, cpus=cpus, gpus=gpus, spot=spot, resumable=resumable
        )
        super().__init__(**{**chosen, **kwargs})
        self.module = module
        self.config = config
        self.overrides = overrides or {}
        self.form = form
        self.choices = choices or {}
        self.cpus = cpus
        self.resumable = resumable
        self.relaunches = relaunches
        self._local: LocalRunner | None = None
        self._result: Any = None

    def execute(self, context: Context) -> Any:
        """Run the job where ``[nightshift] runner`` says, and return its result.

        Raises:
            JobFailed: One of the exceptions of `nightshift.failures`.
        """
        with sentence_kept(context["ti"]):
            self.config = self.effective_config(context)
            self.log.info("Config: %s", self.config.model_dump_json())
            if settings.runner() == "local":
                self._result = self._execute_locally(context)
            else:
                pods.refuse_unreachable(os.environ)
                pods.refuse_nodes_apart(self.config)
                self._result = self._watching_pod(context, 0, lambda: super(JobOperator, self).execute(context))
            return self._result

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the trigger has seen a deferred pod end.

        Raises:
            JobFailed: One of the exceptions of `nightshift.failures`.
        """
        relaunched = event.get(_RELAUNCHED, 0)
        with sentence_kept(context["ti"]):
            self.config = self.effective_config(context)
            self._result = self._watching_pod(
                context, relaunched, lambda: super(JobOperator, self).trigger_reentry(context, event)
            )
            return self._result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002  the provider's signature
        """Return what the job read and wrote; asked for by the OpenLineage provider, in a process of its own.

        That process is forked from the worker and shares its connection to Airflow, so the result is the kept one and
        no XCom is pulled (provider 2.20.3).
        """
        return lineage_of(self.module, self.config, self._result)

    def effective_config(self, context: Context) -> JobConfig:
        """Return the config with the form's values and the overrides in it, validated by its own class.

        Raises:
            BadConfig: A value does not fit; never retried.
        """
        values = self.config.model_dump(mode="json")
        try:
            sections, params = chosen_values(self.config, context["params"] if self.form else {}, self.choices)
            values |= sections
            form = form_values(self.config, params)
            for path, value in (*form.items(), *self.overrides.items()):
                put(values, path, value)
            return type(self.config).from_mapping(values, origin=f"task {self.task_id}")
        except errors.BadConfig as error:
            raise BadConfig(str(error)) from None

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """Return the job's pod. Its config joins it here, after Jinja is done."""
        on_claim = {environment.WORK_FOLDER: pod_spec.WORK_FOLDER} if self._has_claim else {}
        variables = pod_spec.job_environment(
            self.config.model_dump_json(),
            {**self._identity(context), **on_claim},
            self.cpus,
            self._connection,
            self.config.secret_variables,
            image=self.image,
        )
        ours = {variable.name for variable in variables}
        given = (
            [k8s.V1EnvVar(name=k, value=v) for k, v in self.env_vars.items()]
            if isinstance(self.env_vars, dict)
            else self.env_vars
        )
        self.env_vars = [*(variable for variable in given if variable.name not in ours), *variables]
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """Return the task's pod, found or created; of a job over several nodes it is node 0, and the others are there.

        Raises:
            JobFailed: The others cannot be created.
        """
        if self.nodes == 1:
            return super().get_or_create_pod(pod_request_obj, context)
        nodes, container = self.nodes, self.base_container_name
        node_pods.become_first(pod_request_obj, nodes=nodes, container=container)
        pod = super().get_or_create_pod(pod_request_obj, context)
        if pod.status and pod.status.phase in {"Succeeded", "Failed"}:
            return pod
        pod_request_obj.metadata.name = pod.metadata.name  # that of a pod which a dead worker has left
        node_pods.become_first(pod_request_obj, nodes=nodes, container=container)
        try:
            node_pods.start(self.client, pod_request_obj, nodes=nodes, container=container)
        except Exception:
            pods.remove(self.client, pod, grace_seconds=self._grace_seconds)
            raise
        self.log.info("The other nodes: %s", self._other_names(pod))
        return pod

    def manifests(self) -> list[Any]:
        """Return all that would be created in the cluster: the pod, and of several nodes the Service and the others."""
        pod = self.build_pod_request_obj(dry_run=True)
        if self.nodes == 1:
            return [pod]
        nodes, container = self.nodes, self.base_container_name
        node_pods.become_first(pod, nodes=nodes, container=container)
        return [pod, node_pods.service(pod), *node_pods.further(pod, nodes=nodes, container=container)]

    @property
    def nodes(self) -> int:
        """How many pods train together."""
        return pods.nodes_of(self.config) if self.resumable else 1

    def on_kill(self) -> None:
        """End the job: SIGTERM to its process, or deletion of its pods."""
        if self._local is not None:
            self._local.stop()
            return
        pod = self.pod
        super().on_kill()
        self._stop_other_nodes(pod)

    def _execute_locally(self, context: Context) -> Any:
        ti = context["ti"]
        key = JobKey(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)
        self._local = LocalRunner(key, try_number=ti.try_number, grace_seconds=self._grace_seconds, log=self.log)
        pod = self.build_pod_request_obj(context, dry_run=True)
        secrets = own_secrets(self.config.secret_variables)
        if self._connection:
            secrets[environment.STORAGE_OPTIONS] = storage_options(self._connection)
        result = self._local.run(pod.spec.containers[0], relaunches=self._relaunches(), secrets=secrets)
        return result if self.do_xcom_push else None

    def _watching_pod(self, context: Context, relaunched: int, watch: Callable[[], Any]) -> Any:
        """Let the provider do its work; give its failures their names, and an interrupted job its next pod."""
        while True:
            try:
                result = watch()
            except AirflowSkipException:
                raise
            except Exception as error:
                failure = self._failure_of_pod(error)
                if failure is None:
                    raise
                if failure.action is not Action.RESUME or relaunched >= self._relaunches() or self._killed:
                    raise failure from error
            else:
                self._clear_up_after_success()
                return result
            relaunched += 1
            self.log.warning("%s: starting it again (%d of %d)", failure, relaunched, self._relaunches())
            self.pod = self.remote_pod = self.pod_request_obj = None
            # The trigger carries the count through a deferral and hands it back with its event.
            self.trigger_kwargs = {**(self.trigger_kwargs or {}), _RELAUNCHED: relaunched}
            self.config = self.effective_config(context)
            watch = partial(super().execute, context)

    def _failure_of_pod(self, error: Exception) -> JobFailed | None:
        """Return the named failure behind the provider's exception, or None if the pod has none of its own.

        A pod that still lives is deleted first: the next try must not run beside it.
        """
        if self.pod is None:
            return None
        pod = pods.read(self.client, self.pod)
        ended = ended_pod(pod, self.base_container_name) if pod else None
        if pod and (ended is None or ended.exit_code is None):
            self.log.warning("Deleting pod %s, for the next try must not run beside it: %s", pod.metadata.name, error)
            pods.remove(self.client, pod, grace_seconds=self._grace_seconds)
        if pod is None and pods.missed(error):
            ended = Ended(disrupted="its pod is gone from the cluster")
        failure = self._of_all_nodes(failure_of(ended) if ended else None)
        self._stop_other_nodes(self.pod)
        return failure

    def _of_all_nodes(self, failure: JobFailed | None) -> JobFailed | None:
        """Return what another node's pod says about its end, where node 0's has no name for it; tell the log of all."""
        if self.nodes == 1:
            return failure
        theirs = node_pods.failures(self.client, self.pod, self.base_container_name)
        for name, one in theirs.items():
            self.log.warning("Pod %s: %s", name, one)
        telling = [type(one)(f"pod {name}: {one}") for name, one in theirs.items() if type(one) is not JobFailed]
        return telling[0] if type(failure) is JobFailed and telling else failure

    def _clear_up_after_success(self) -> None:
        """Remove what is left of the other nodes; a job that is done does not fail for it."""
        try:
            self._stop_other_nodes(self.pod)
        except Exception as error:  # an API server's hiccup: the cluster removes them with node 0's pod
            self.log.warning("The other nodes' pods could not be removed: %s", error)

    def _stop_other_nodes(self, pod: k8s.V1Pod | None) -> None:
        if self.nodes > 1 and pod is not None and settings.runner() != "local":
            node_pods.stop(self.client, pod, grace_seconds=self._grace_seconds)

    def _other_names(self, pod: k8s.V1Pod) -> str:
        return ", ".join(one.metadata.name for one in node_pods.others_of(self.client, pod))

    @property
    def _grace_seconds(self) -> int:
        return self.termination_grace_period or 30

    @property
    def _has_claim(self) -> bool:
        return any(mount.mount_path == pod_spec.WORK_FOLDER for mount in self.volume_mounts)

    @property
    def _connection(self) -> str | None:
        """The Airflow connection of the job's sources, where its config has such a field and names one."""
        return getattr(self.config, "connection", None) or None

    def _relaunches(self) -> int:
        return settings.relaunches() if self.relaunches is None else self.relaunches

    def _identity(self, context: Context | None) -> dict[str, str]:
        if context is None:
            return {environment.CODE_VERSION: code_version()}
        ti = context["ti"]
        return {
            environment.DAG_ID: ti.dag_id,
            environment.RUN_ID: ti.run_id,
            environment.TASK_ID: ti.task_id,
            environment.MAP_INDEX: str(-1 if ti.map_index is None else ti.map_index),
            environment.TRY: str(ti.try_number),
            environment.CODE_VERSION: code_version(context),
        }


@contextmanager
def sentence_kept(ti: Any) -> Iterator[None]:
    """Keep a failure's sentence as XCom: the task's page shows it, and finds the report's address in it."""
    try:
        yield
    except JobFailed as error:
        ti.xcom_push(key=SENTENCE, value=str(error))
        raise


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at a dotted path; a mapping is merged into what is there."""
    *parents, last = path.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[last] = _merged(values.get(last), value)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return deepcopy(new)
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
