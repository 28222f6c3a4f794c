"""An explicit loop, as one writes it for PyTorch: digits, a small CNN, a checkpoint.

`hl.train.fit` does all of this in one call; here every step can be seen and changed. The digits
come with scikit-learn (pip install scikit-learn).
"""

import hotloop as hl
from hotloop import nn
from hotloop.data import DataLoader, TensorDataset, random_split

hl.seed(0)  # weights, the split and the order of the batches follow from this

images, labels = hl.data.datasets.load_digits()  # (1797, 1, 8, 8) float32 and (1797,) int64
train, test = random_split(TensorDataset(images, labels), [0.8, 0.2])
train_loader = DataLoader(train, batch_size=32, shuffle=True)
test_loader = DataLoader(test, batch_size=256)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16 * 4 * 4, 10),
)
criterion = nn.CrossEntropyLoss()  # takes logits; no softmax in the model
optimizer = hl.optim.AdamW(model.parameters(), lr=3e-3)

for epoch in range(1, 9):
    model.train()
    total = 0.0
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)  # the last batch is shorter: weigh by samples

    model.eval()
    right = 0
    with hl.no_grad():
        for x, y in test_loader:
            right += int((model(x).argmax(1) == y).sum().item())
    print(f"epoch {epoch}: loss {total / len(train):.4f}, {right} of {len(test)} right")

# Everything that is needed to go on later, in one file; it is replaced in one step.
hl.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "digits.safetensors")
state = hl.load("digits.safetensors")
model.load_state_dict(state["model"])
optimizer.load_state_dict(state["optimizer"])
assert right > 0.9 * len(test)
