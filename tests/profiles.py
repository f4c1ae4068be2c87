"""A profile as a run gives it, made up, for tests of what is written of it."""

from fastconv.profiling.record import Alarm, Layer, Part, Profile, Roofs, Start, Whole


def layer(name: str, index: int) -> Layer:
    image = [1, 16, 56, 56]
    return Layer(
        name=name,
        op="inverted_residual",
        input=image,
        output=image,
        layout="channels_last",
        flop=10_000_000 * index,
        counted=True,
        backend="cpu (avx512)",
        reason="channels_last, float32",
        modules=[f"{name}.0", f"{name}.1"],
        torch=Part(2.0 / index, 4_000_000, ["oneDNN jit:avx512"], 0.2, 0.1, 2, 0.05),
        fastconv=Part(0.5 / index, 800_000, ["rows"], 0.6, 0.2, 0, 0.0),
    )


def sample() -> Profile:
    """Four layers; one has a name that is no HTML, and torch took one slow path."""
    layers = [layer(name, i) for i, name in enumerate(["stem", "block.1", "block.2", "<head>"], 1)]
    return Profile(
        model="sample",
        dtype="float32",
        device="cpu",
        threads=2,
        input=[[1, 3, 224, 224]],
        environment={"processor": "a processor", "torch": "2.13.0", "date": "2026-11-22"},
        difference=3e-7,
        wholes={
            "torch contiguous": Whole("torch contiguous", 5.0, (4.9, 5.2), 40),
            "torch channels_last": Whole("torch channels_last", 4.4, (4.3, 4.6), 40),
            "torch": Whole("torch channels_last", 4.4, (4.3, 4.6), 40, 4.2),
            "fastconv": Whole("fastconv", 1.1, (1.0, 1.2), 160, 1.05),
        },
        layers=layers,
        roofs=Roofs(2e11, [1 << 16, 1 << 22, 1 << 28], [3e11, 1e11, 2e10], [2e11, 9e10, 1e10]),
        memory={"torch": [(0.0, 1 << 20), (0.5, 3 << 20), (1.0, 0)], "fastconv": [(0.0, 1 << 20)]},
        starts={
            "torch": Start("torch channels_last", None, 40.0, 4.5, 12.0, 9.0),
            "fastconv": Start("fastconv", 1500.0, 9.0, 1.2, None, None),
        },
        alarms=[Alarm("torch", "block.2", "convolution ref:any", "a scalar reference", 0.7)],
    )
