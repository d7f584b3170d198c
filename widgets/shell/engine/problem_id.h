// Errors of the engine as banners are told apart by their cause.
#pragma once

#include "base/error.h"

#include <QString>

namespace espalier
{

// One banner per cause: what stops the profile stops the evaluation too, and may have been a warning before.
inline QString problemId(const Error& error)
{
    const std::string text = error.action.empty() ? error.message : error.message + " " + error.action;
    return QStringLiteral("problem:") + QString::fromStdString(text);
}

}  // namespace espalier
