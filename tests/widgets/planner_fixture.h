// The pipeline's controls and what a search did, for tests of it.
#pragma once

#include "planning/pipeline_panel.h"
#include "planning/search_panel.h"
#include "widgets/shell_fixture.h"

#include <QComboBox>

namespace espalier::test
{

struct Planner {
    explicit Planner(Shell& of) : shell(of) {}

    Shell& shell;
    PipelinePanel& panel() { return *shell.window.findChild<PipelinePanel*>(); }
    SearchPanel& search() { return *shell.window.findChild<SearchPanel*>(); }
    PlanningController& planning() { return *shell.workbench.planning(); }
    template <class T>
    T* control(const QString& name)
    {
        for (T* widget : panel().findChildren<T*>())
            if (widget->accessibleName() == name && !widget->isHidden()) return widget;
        return nullptr;
    }
    void choose(const QString& name, const QString& id)
    {
        auto* box = control<QComboBox>(name);
        const int index = box ? box->findData(id) : -1;
        if (index < 0) return;
        box->setCurrentIndex(index);
        emit box->activated(index);
    }
    void click(const char* button) { shell.window.findChild<QPushButton*>(QString::fromLatin1(button))->click(); }
    void run() { shell.window.action(QStringLiteral("plan.run"))->trigger(); }
    Json sent(const Home& home)
    {
        const QStringList lines = home.logLines(QStringLiteral("plan "));
        return lines.isEmpty() ? Json() : Json::parse(lines.last().section(QLatin1Char(' '), 2).toStdString());
    }
    std::size_t entries() { return shell.plans().history().entries().size(); }
    QString current() { return QString::fromStdString(shell.plans().history().current().text); }
    // Layer 0 searched, layer 1 running.
    bool held()
    {
        const SearchState& state = planning().state();
        return state.running() && state.layersFinished() == 1 && state.currentLayer == 1 &&
               shell.window.action(QStringLiteral("plan.stop"))->isEnabled();
    }
};

inline QStringList hold() { return {QStringLiteral("--hold"), QStringLiteral("plan")}; }

}  // namespace espalier::test
