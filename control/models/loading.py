"""Registered models as the gateway loads them beside the active one: for a request that names one, or for a job."""

from control.gateway_client import GatewayClient
from control.models.references import References
from control.models.registry import Registry
from stepserve.contract import LoadRequest


class Loading:
    def __init__(self, registry: Registry, references: References, gateway: GatewayClient) -> None:
        self._registry = registry
        self._references = references
        self._gateway = gateway

    async def request_for(self, model_id: str) -> LoadRequest:
        """What the gateway needs to load it. Raises NotFound, and Invalid when the files are gone or have changed."""
        model = await self._registry.proven(model_id)
        reference = await self._references.reference_for(model.digest, wait_s=0)
        base_reference = await self._references.reference_for(model.base.digest, wait_s=0) if model.base else None
        return LoadRequest(
            model=model,
            reference=reference,
            base_reference=base_reference,
            keep_alive_s=await self._registry.keep_alive_s(model),
        )

    async def load_beside(self, model_id: str) -> None:
        """Returns when the model is loaded. Raises as `request_for`, NoRoom, LoadFailed, GatewayUnavailable."""
        request = await self.request_for(model_id)
        await self._gateway.load(request.model_copy(update={"wait": False}))
