// What an error of the core or the engine says to a person: its sentences are looked up by their patterns in the translation context
// "errors", then filled with the error's parameters. Without a translation they are the English ones. GUI thread.
#pragma once

#include "base/error.h"

#include <QString>

namespace espalier
{

QString causeText(const Error& error);   // what happened
QString keptText(const Error& error);    // what was kept
QString adviceText(const Error& error);  // what to do, without what only the command line can do

}  // namespace espalier
