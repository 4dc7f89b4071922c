"""The cluster that tables are placed on: nodes, the devices of each, their memories, and how fast those are reached."""

from dataclasses import dataclass, replace

from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, Topology, TopologyFactory, TrainerConfig

_MILLISECONDS = 1000  # TorchRec counts bandwidths in bytes per millisecond


@dataclass(frozen=True)
class Bandwidths:
    """How fast bytes move, in bytes per second.

    Attributes:
        device: of a GPU's own memory.
        host: of a node's memory.
        host_to_device: between the two.
        in_node: from one device of a node to another.
        between_nodes: from a device to one of another node.
    """

    device: float
    host: float
    host_to_device: float
    in_node: float
    between_nodes: float


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices, one process on each device.

    Attributes:
        device: what computes, "cpu" or "cuda"; where the CPU does, a node's memory is all that there is.
        device_bytes: memory of one GPU.
        host_bytes: memory of one node, which its processes share evenly.
        reserved_share: of every memory, what tables are not given: activations, libraries, and what lies idle between
            blocks.
    """

    device: str
    nodes: int
    devices_per_node: int
    device_bytes: int
    host_bytes: int
    bandwidths: Bandwidths
    reserved_share: float

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.nodes * self.devices_per_node

    @property
    def device_bytes_for_use(self) -> int:
        """What is left of one GPU's memory beside the reserve; 0 where the CPU computes."""
        return int(self.device_bytes * (1 - self.reserved_share)) if self.device == "cuda" else 0

    @property
    def host_bytes_for_use(self) -> int:
        """What is left of a node's memory beside the reserve, for each of its processes."""
        return int(self.host_bytes * (1 - self.reserved_share)) // self.devices_per_node

    def with_nodes(self, nodes: int) -> "Cluster":
        """Return the cluster with another number of such nodes."""
        return replace(self, nodes=nodes)

    def topology(self) -> Topology:
        """Return it as TorchRec's planner takes it, the reserve left out."""
        speed = self.bandwidths
        return TopologyFactory.create_topology(
            TrainerConfig(world_size=self.world_size, local_world_size=self.devices_per_node),
            HardwareConfig(
                hbm_cap_bytes=self.device_bytes_for_use,
                ddr_cap_bytes=self.host_bytes_for_use,
                ssd_cap_bytes=0,
                hbm_mem_bw=speed.device / _MILLISECONDS,
                ddr_mem_bw=speed.host / _MILLISECONDS,
                hbm_to_ddr_mem_bw=speed.host_to_device / _MILLISECONDS,
                intra_host_bw=speed.in_node / _MILLISECONDS,
                inter_host_bw=speed.between_nodes / _MILLISECONDS,
            ),
            KernelConfig(compute_device=self.device, use_hardware_based_bandwidth=True),
        )
