#include "shell/window/workspace.h"

namespace espalier
{

namespace
{
constexpr int kCompactWidth = 1400;
constexpr int kLowHeight = 760;
}  // namespace

WindowSize WindowSize::of(const QWidget& window)
{
    return {.compact = window.width() < kCompactWidth, .low = window.height() < kLowHeight};
}

bool Workspace::isIn(const QWidget* focus, const QWidget* part) { return part && focus && (part == focus || part->isAncestorOf(focus)); }

}  // namespace espalier
