"""A script with a mistake."""

print("about to divide")
print(1 / 0)
